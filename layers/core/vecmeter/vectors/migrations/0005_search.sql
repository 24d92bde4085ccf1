-- What a collection's searches need to be told: the recall aimed at, how far an index scan looks, the language of its
-- texts, and which fields of the metadata have an index of their own.
ALTER TABLE vecmeter.collections
    DROP CONSTRAINT collections_index_storage_check,
    ADD CONSTRAINT collections_index_storage_check CHECK (index_storage IN ('float', 'half', 'binary')),
    ADD COLUMN ef_search integer CHECK (ef_search BETWEEN 1 AND 1000),
    ADD COLUMN target_recall double precision NOT NULL DEFAULT 0.95 CHECK (target_recall > 0 AND target_recall <= 1),
    ADD COLUMN text_search text,
    -- Whether the words of all documents are indexed, or those of some are still to come.
    ADD COLUMN texts_ready boolean NOT NULL DEFAULT true,
    ADD COLUMN filterable jsonb NOT NULL DEFAULT '[]';

-- The HNSW indexes there are or are being made: of a whole collection (namespace null), or of one namespace. Searches
-- use those that are ready; one is called vectors_<collection_id>_hnsw_<index_id>. What an index was made with is kept
-- here, for the definition may have been changed since. One is waited with while its collection is being loaded. One that is retired is dropped when no instance knows it any
-- more; of one that was refused, for its recall was too low, only the row is left, so that it is not built again.
CREATE TABLE vecmeter.hnsw_indexes (
    index_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id   bigint NOT NULL,
    namespace       text COLLATE "C",
    storage         text NOT NULL CHECK (storage IN ('float', 'half', 'binary')),
    m               integer NOT NULL,
    ef_construction integer NOT NULL,
    -- How many vectors it held when it was built, and the recall measured then, where it was.
    vectors         bigint,
    recall          double precision,
    state           text NOT NULL DEFAULT 'building' CHECK (state IN ('waiting', 'building', 'ready', 'retired', 'refused')),
    changed_at      timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX hnsw_indexes_collection ON vecmeter.hnsw_indexes (collection_id);

-- Collections there are: a vector may expire from now on, and an index is known by its number.
DO $$
DECLARE
    found record;
    number bigint;
BEGIN
    FOR found IN SELECT * FROM vecmeter.collections LOOP
        EXECUTE format(
            'ALTER TABLE vecmeter.%I ADD COLUMN expires_at timestamptz', 'records_' || found.collection_id
        );
        EXECUTE format(
            'ALTER TABLE vecmeter.%I ADD COLUMN expires_at timestamptz', 'vectors_' || found.collection_id
        );
        EXECUTE format(
            'CREATE INDEX %I ON vecmeter.%I (expires_at) WHERE expires_at IS NOT NULL',
            'records_' || found.collection_id || '_expires_at',
            'records_' || found.collection_id
        );
        IF to_regclass('vecmeter.vectors_' || found.collection_id || '_hnsw') IS NOT NULL THEN
            INSERT INTO vecmeter.hnsw_indexes (collection_id, storage, m, ef_construction, state)
            VALUES (found.collection_id, found.index_storage, found.index_m, found.index_ef_construction, 'ready')
            RETURNING index_id INTO number;
            EXECUTE format(
                'ALTER INDEX vecmeter.%I RENAME TO %I',
                'vectors_' || found.collection_id || '_hnsw',
                'vectors_' || found.collection_id || '_hnsw_' || number
            );
        END IF;
    END LOOP;
END
$$;
