-- What every write to a collection changes: an answer may be given again until this has changed. A write raises one
-- row, whichever is free, and makes another where none is: so writers do not wait for each other, and there are never
-- more rows than there were writers at once. Their sum only grows. A collection without a row is gone.
CREATE TABLE vecmeter.revisions (
    collection_id bigint NOT NULL,
    slot          bigint GENERATED ALWAYS AS IDENTITY,
    revision      bigint NOT NULL,
    PRIMARY KEY (collection_id, slot)
) WITH (fillfactor = 50);

INSERT INTO vecmeter.revisions (collection_id, revision) SELECT collection_id, 1 FROM vecmeter.collections;
