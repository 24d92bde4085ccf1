-- The history is read by task, newest first, and every run that begins looks for those that never ended. Built beside
-- writers, for a history of months is large.
WITH wanted (name, made) AS (
    VALUES ('maintenance_runs_task', 'ON vecmeter.maintenance_runs (task, run_id)'),
           ('maintenance_runs_running', 'ON vecmeter.maintenance_runs (run_id) WHERE status = ''running''')
), state AS (
    SELECT w.name, w.made, i.indisvalid FROM wanted w
    LEFT JOIN pg_index i ON i.indexrelid = to_regclass('vecmeter.' || w.name)
)
SELECT format('DROP INDEX CONCURRENTLY vecmeter.%I', name) FROM state WHERE NOT indisvalid
UNION ALL
SELECT format('CREATE INDEX CONCURRENTLY %I ', name) || made FROM state WHERE indisvalid IS NOT TRUE
