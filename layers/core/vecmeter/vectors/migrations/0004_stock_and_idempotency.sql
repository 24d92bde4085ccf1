-- How much every collection holds, and limits of its own. A write appends what it changed to stock_changes, so that
-- writers do not wait for each other; from time to time changes are folded into stock. The sum of both is exact.
CREATE TABLE vecmeter.stock (
    collection_id bigint PRIMARY KEY,
    vectors       bigint NOT NULL DEFAULT 0,
    bytes         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE vecmeter.stock_changes (
    collection_id bigint NOT NULL,
    vectors       bigint NOT NULL,
    bytes         bigint NOT NULL
);

CREATE INDEX stock_changes_collection ON vecmeter.stock_changes (collection_id);

ALTER TABLE vecmeter.collections
    ADD COLUMN max_vectors bigint CHECK (max_vectors >= 0),
    ADD COLUMN max_storage_bytes bigint CHECK (max_storage_bytes >= 0);

-- What writes with an Idempotency-Key answered. The row is written in the write's own transaction: nobody else ever sees
-- it without its answer, and who comes with the same key meanwhile waits for it.
CREATE TABLE vecmeter.idempotency_keys (
    api_key_id      text COLLATE "C" NOT NULL,
    idempotency_key text COLLATE "C" NOT NULL,
    fingerprint     bytea NOT NULL,
    receipt_id      uuid NOT NULL,
    kept_until      timestamptz NOT NULL,
    status          smallint,
    body            bytea,
    PRIMARY KEY (api_key_id, idempotency_key)
);

CREATE INDEX idempotency_keys_kept_until ON vecmeter.idempotency_keys (kept_until);

-- Collections there are: what an update replaces is told by the row itself from now on, and what they hold is counted.
-- Adding the column locks out writers until all of it is committed.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT collection_id, dimension FROM vecmeter.collections LOOP
        EXECUTE format(
            'ALTER TABLE vecmeter.%I ADD COLUMN replaced_bytes integer NOT NULL DEFAULT 0',
            'records_' || found.collection_id
        );
        EXECUTE format(
            'INSERT INTO vecmeter.stock (collection_id, vectors, bytes) '
            'SELECT $1, count(*), coalesce(sum(octet_length(id) + coalesce(octet_length(document), 0) '
            '+ octet_length(metadata::text) + 4 * $2), 0) FROM vecmeter.%I',
            'records_' || found.collection_id
        ) USING found.collection_id, found.dimension;
    END LOOP;
END
$$;
