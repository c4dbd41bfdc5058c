-- The caller's own notes, as JSON; none where there are none. The request itself is forgotten.
ALTER TABLE jobs ADD COLUMN labels TEXT;
