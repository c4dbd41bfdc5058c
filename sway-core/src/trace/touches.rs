//! What a run touches, noted while it runs.
