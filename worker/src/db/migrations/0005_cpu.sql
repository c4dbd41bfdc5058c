-- CPU time that a run's processes used, and most CPUs at a time in thousandths; none where it was
-- not measured.
ALTER TABLE runs ADD COLUMN cpu_ms          INTEGER;
ALTER TABLE runs ADD COLUMN cpus_peak_milli INTEGER;
