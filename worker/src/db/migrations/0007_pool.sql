-- Whether a run's container was made before its job came.
ALTER TABLE runs ADD COLUMN pooled INTEGER NOT NULL DEFAULT 0;
