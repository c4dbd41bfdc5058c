-- What the policy objects to in a submitted job, counted once: lists tell it without looking again.
-- Null where the job was submitted before this was counted.
ALTER TABLE submissions ADD COLUMN findings INTEGER;
