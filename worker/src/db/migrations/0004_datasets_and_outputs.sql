-- What a job's datasets were when it was submitted, as JSON; none where it has none.
ALTER TABLE jobs ADD COLUMN datasets TEXT;
-- What a run left in /output and is kept; none where it had none.
ALTER TABLE runs ADD COLUMN output_files       INTEGER;
ALTER TABLE runs ADD COLUMN output_files_bytes INTEGER;
