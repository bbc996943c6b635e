-- For a Grafana: the newest 30 days of the published snapshot, copied into the Postgres that PGHOST, PGPORT, PGDATABASE,
-- PGUSER and PGPASSWORD name. No texts. One transaction replaces what the last copy brought: panels see the one or the other,
-- and what was erased in between is gone.
ATTACH 'turnlog-data/snapshot.duckdb' AS chats (READ_ONLY);
ATTACH '' AS grafana (TYPE postgres);
SET pg_null_byte_replacement = '';
SET TimeZone = 'UTC';

CREATE TEMP VIEW turns AS
  SELECT turn_id, session_id, channel, user_id, status, code, model, attempt,
    accepted_at, started_at, ended_at, queue_ms, first_delta_ms, total_ms, input_tokens, output_tokens
  FROM chats.turns WHERE accepted_at > now() - INTERVAL 30 DAY;
CREATE TEMP VIEW tool_calls AS
  SELECT name, outcome, client, duration_ms, recorded_at
  FROM chats.tool_calls WHERE recorded_at > now() - INTERVAL 30 DAY;
CREATE TEMP VIEW usage AS
  SELECT channel, user_id, kind, model, input_tokens, output_tokens, cost, currency, recorded_at
  FROM chats.usage WHERE recorded_at > now() - INTERVAL 30 DAY;
CREATE TEMP VIEW copied AS SELECT now() AS copied_at;

CREATE SCHEMA IF NOT EXISTS grafana.turnlog;
CREATE TABLE IF NOT EXISTS grafana.turnlog.turns AS FROM temp.turns LIMIT 0;
CREATE TABLE IF NOT EXISTS grafana.turnlog.tool_calls AS FROM temp.tool_calls LIMIT 0;
CREATE TABLE IF NOT EXISTS grafana.turnlog.usage AS FROM temp.usage LIMIT 0;
CREATE TABLE IF NOT EXISTS grafana.turnlog.copied AS FROM temp.copied LIMIT 0;

BEGIN;
DELETE FROM grafana.turnlog.turns;
DELETE FROM grafana.turnlog.tool_calls;
DELETE FROM grafana.turnlog.usage;
DELETE FROM grafana.turnlog.copied;
INSERT INTO grafana.turnlog.turns FROM temp.turns;
INSERT INTO grafana.turnlog.tool_calls FROM temp.tool_calls;
INSERT INTO grafana.turnlog.usage FROM temp.usage;
INSERT INTO grafana.turnlog.copied FROM temp.copied;
COMMIT;
