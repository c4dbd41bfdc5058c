-- What became of the requirements.txt of a submitted job, as JSON; none where it has none.
ALTER TABLE submissions ADD COLUMN packages TEXT;

-- Images with packages, by what they are made from: what was built a short while ago is not built again.
CREATE TABLE package_builds (
    key      TEXT PRIMARY KEY,
    manifest TEXT NOT NULL,
    packages TEXT NOT NULL,
    built_at TEXT NOT NULL
) STRICT;
