-- The extension, the schema, the list of collections and the defaults every session of this role starts with.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE SCHEMA IF NOT EXISTS vecmeter;

CREATE TABLE vecmeter.collections (
    collection_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id         text COLLATE "C" NOT NULL,
    name               text COLLATE "C" NOT NULL,
    dimension          integer NOT NULL CHECK (dimension BETWEEN 1 AND 16000),
    metric             text NOT NULL CHECK (metric IN ('cosine', 'l2', 'inner_product')),
    index_type         text NOT NULL CHECK (index_type IN ('hnsw', 'none')),
    index_m            integer NOT NULL,
    index_ef_construction integer NOT NULL,
    index_storage      text NOT NULL CHECK (index_storage IN ('float', 'half')),
    embedder_provider  text,
    embedder_model     text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, name)
);

CREATE TABLE vecmeter.maintenance_runs (
    run_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task        text NOT NULL,
    status      text NOT NULL,
    message     text NOT NULL,
    error       text,
    figures     jsonb NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL
);

CREATE INDEX maintenance_runs_newest ON vecmeter.maintenance_runs (started_at DESC);

-- Defaults on the role: a SET in a session would pin it to one connection of RDS Proxy. The extension is loaded in
-- this session (CREATE EXTENSION did it or the cast below does), so that its settings are known and checked.
SELECT '[1]'::vector;

DO $$
BEGIN
    -- A filtered scan goes on until it has enough rows, in exact order of distance (pgvector >= 0.8).
    EXECUTE format('ALTER ROLE %I SET hnsw.iterative_scan = %L', current_user, 'strict_order');
    EXECUTE format('ALTER ROLE %I SET hnsw.ef_search = %L', current_user, '100');
    -- Compiling costs more than these statements take.
    EXECUTE format('ALTER ROLE %I SET jit = %L', current_user, 'off');
END
$$;
