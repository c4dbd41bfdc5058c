-- How a run's start used a trace; `used` is sampled, so mostly not known.
ALTER TABLE runs ADD COLUMN trace TEXT NOT NULL DEFAULT 'none'
    CHECK (trace IN ('pushed', 'read', 'none'));
ALTER TABLE runs ADD COLUMN trace_pushed_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN trace_used_bytes   INTEGER;
ALTER TABLE runs ADD COLUMN trace_missed_bytes INTEGER NOT NULL DEFAULT 0;
-- Whether the run was made to record a trace.
ALTER TABLE runs ADD COLUMN records_trace      INTEGER NOT NULL DEFAULT 0;

-- Traces that this worker made or used: what is known of contents, whatever image they are in.
CREATE TABLE traces (
    username   TEXT NOT NULL,
    manifest   TEXT NOT NULL,
    key        TEXT NOT NULL,
    -- The encoded trace with this worker's own idle counters; frames are named in it.
    trace      BLOB NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (username, manifest, key)
) STRICT;

CREATE INDEX traces_by_age ON traces (updated_at);
