-- What its owner says of a collection beside what it is: that it must not be deleted, and tags; and what a client of
-- another service asked for when it made the collection, which it is told again.
ALTER TABLE vecmeter.collections
    ADD COLUMN deletion_protection boolean NOT NULL DEFAULT false,
    ADD COLUMN tags jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN requested jsonb;
