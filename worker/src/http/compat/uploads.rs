//! Scripts that clients of tinycontainerruntime send ahead of their runs: kept in memory, a share
//! for each user, the oldest go.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use sway_core::name::UserName;

/// Bytes of all scripts, and of one user's.
const ALL_LEN_MAX: usize = 64 << 20;
const OF_USER_LEN_MAX: usize = 16 << 20;

/// What a script costs beside its bytes: many empty ones are bounded too.
const OVERHEAD: usize = 256;

#[derive(Debug)]
struct Upload {
    user: UserName,
    name: String,
    content: Bytes,
}

impl Upload {
    fn cost(&self) -> usize {
        OVERHEAD + self.name.len() + self.content.len()
    }
}

/// Scripts by user and name, the oldest first.
#[derive(Debug, Default)]
pub struct Uploads(Mutex<VecDeque<Upload>>);

impl Uploads {
    /// Keeps a script in the place of an earlier one of the same name. False where it is more
    /// than a user may have.
    pub(super) fn put(&self, user: &UserName, name: String, content: Bytes) -> bool {
        let upload = Upload { user: user.clone(), name, content };
        if upload.cost() > OF_USER_LEN_MAX {
            return false;
        }
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|old| old.user != upload.user || old.name != upload.name);
        uploads.push_back(upload);
        drop_oldest(&mut uploads, OF_USER_LEN_MAX, |upload| upload.user == *user);
        drop_oldest(&mut uploads, ALL_LEN_MAX, |_| true);
        true
    }

    /// A script of this user's.
    pub(super) fn get(&self, user: &UserName, name: &str) -> Option<Bytes> {
        let uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = uploads.iter().filter(|upload| upload.user == *user && upload.name == name);
        found.next().map(|upload| upload.content.clone())
    }
}

/// Drops the oldest of these until they fit.
fn drop_oldest(uploads: &mut VecDeque<Upload>, max: usize, of: impl Fn(&Upload) -> bool) {
    let mut excess: usize = uploads
        .iter()
        .filter(|upload| of(upload))
        .map(Upload::cost)
        .sum::<usize>()
        .saturating_sub(max);
    uploads.retain(|upload| {
        let goes = excess > 0 && of(upload);
        if goes {
            excess = excess.saturating_sub(upload.cost());
        }
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_share_and_the_newest_scripts() {
        let uploads = Uploads::default();
        let [ada, bob] = ["ada", "bob"].map(|user| user.parse::<UserName>().unwrap());
        let content = |len| Bytes::from(vec![b'x'; len]);
        assert!(uploads.put(&ada, "app.py".to_owned(), content(1)));
        assert!(uploads.put(&bob, "app.py".to_owned(), content(2)));
        assert_eq!(uploads.get(&ada, "app.py"), Some(content(1)));
        assert_eq!(uploads.get(&bob, "app.py"), Some(content(2)));
        assert!(uploads.put(&ada, "app.py".to_owned(), content(3)));
        assert_eq!(
            uploads.get(&ada, "app.py"),
            Some(content(3)),
            "the same name is the same script"
        );
        for number in 0..5 {
            assert!(uploads.put(&bob, format!("{number}.py"), content(5 << 20)));
        }
        let kept = |number: i32| uploads.get(&bob, &format!("{number}.py")).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(kept), [false, false, true, true, true]);
        assert!(uploads.get(&ada, "app.py").is_some(), "bob's many are nobody else's loss");
        assert!(!uploads.put(&ada, "big".to_owned(), content(OF_USER_LEN_MAX)));
    }
}
