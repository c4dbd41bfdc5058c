-- What a job is to the owner who decides on it; none for jobs that nobody decides on.
CREATE TABLE submissions (
    job_id      TEXT PRIMARY KEY,
    owner       TEXT NOT NULL,
    queue       TEXT NOT NULL,
    name        TEXT NOT NULL,
    description TEXT NOT NULL,
    tags        TEXT NOT NULL,
    -- SHA-256 over these columns and the job's: what has another one does not run.
    digest      TEXT NOT NULL,
    -- None until the owner has decided.
    approved    INTEGER,
    decided_by  TEXT,
    decided_at  TEXT,
    reason      TEXT,
    cleaned_at  TEXT
) STRICT;

CREATE INDEX submissions_by_owner ON submissions (owner);

-- What owners grant, as JSON; the defaults where there is no row.
CREATE TABLE queues (
    owner    TEXT PRIMARY KEY,
    settings TEXT NOT NULL
) STRICT;

-- Who did what to which job: only ever added to, each row with the hash of the one before.
CREATE TABLE audit (
    seq      INTEGER PRIMARY KEY,
    at       TEXT NOT NULL,
    actor    TEXT NOT NULL,
    token    TEXT NOT NULL,
    peer     TEXT NOT NULL,
    action   TEXT NOT NULL,
    job      TEXT NOT NULL,
    detail   TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash     TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_job ON audit (job, seq);

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is only ever added to'); END;

CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit is only ever added to'); END;

-- Also refuses INSERT OR REPLACE, for which SQLite asks no trigger of deletion.
CREATE TRIGGER audit_has_no_gaps BEFORE INSERT ON audit
WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit)
BEGIN SELECT RAISE(ABORT, 'the audit is only ever added to'); END;
