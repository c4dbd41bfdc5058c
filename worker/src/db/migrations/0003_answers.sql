-- What a handler answered, as JSON: its result, or its error, and how long it took.
ALTER TABLE runs ADD COLUMN answer TEXT;
