-- What maintenance decides by: what an index was when it was built, the recall measured since, the ef_search that reaches
-- a collection's target, how far the words of documents are read, and whom a run was about.
ALTER TABLE vecmeter.hnsw_indexes
    -- Bytes it took then, and changes its table had seen (rows inserted, updated, deleted, as PostgreSQL counts them).
    ADD COLUMN built_at timestamptz,
    ADD COLUMN built_bytes bigint,
    ADD COLUMN built_changes bigint,
    -- While it is built anew: which relation is being replaced, and how many vectors there were.
    ADD COLUMN rebuilding oid,
    ADD COLUMN rebuilding_vectors bigint,
    -- The recall that searches of its namespace had when it was last measured, by so many of them.
    ADD COLUMN probed_recall double precision,
    ADD COLUMN probed_sample integer,
    ADD COLUMN probed_changes bigint,
    ADD COLUMN probed_at timestamptz;

ALTER TABLE vecmeter.collections
    -- Of searches where neither they nor the definition say anything; the recall it had, and the target it was found for.
    ADD COLUMN tuned_ef_search integer CHECK (tuned_ef_search BETWEEN 1 AND 1000),
    ADD COLUMN tuned_recall double precision,
    ADD COLUMN tuned_for double precision,
    ADD COLUMN tuned_changes bigint,
    ADD COLUMN tuned_at timestamptz,
    -- Up to which record the words of documents are in the table of texts of that number.
    ADD COLUMN texts_table bigint,
    ADD COLUMN texts_read bigint;

-- A run is written down when it begins. Until it has ended, finished_at, which the release before expects to be there, is
-- the time it began.
ALTER TABLE vecmeter.maintenance_runs
    ADD COLUMN project_id text COLLATE "C",
    ADD COLUMN collection text COLLATE "C";
