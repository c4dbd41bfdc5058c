//! Which symbolic links of a tree stay within it, wherever the tree lies.

/// Whether a link with this target stays in its tree. `depth` is how many directories of the tree
/// lie above the link, the tree's root not counted.
///
/// A target may go up first, as far as the root, and then down. One that goes up after it went down
/// is refused even where that looks harmless: the way down may lead through another link. So if
/// every link of a tree passes, none of them leads out, in whatever order they are followed.
pub fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let (mut ups, mut went_down) = (0, false);
    for part in target.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if went_down => return false,
            b".." => ups += 1,
            _ => went_down = true,
        }
    }
    ups <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_may_go_up_to_the_root_and_then_down() {
        for (depth, target) in [
            (0, "a"),
            (0, "a/b"),
            (0, "."),
            (0, "./a"),
            (1, ".."),
            (1, "../a"),
            (2, "../../a/b"),
            (2, ".././../a//b/."),
            (0, "..a"),
        ] {
            assert!(stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
    }

    #[test]
    fn a_link_that_may_lead_out_is_refused() {
        for (depth, target) in [
            (0, ""),
            (0, "/"),
            (5, "/a"),
            (0, ".."),
            (1, "../.."),
            (2, "../../../a"),
            // `d` may be a link to the root.
            (1, "d/../x"),
            (1, "d/.."),
            (0, "a\0b"),
        ] {
            assert!(!stays_inside(depth, target.as_bytes()), "{depth} {target}");
        }
    }
}
