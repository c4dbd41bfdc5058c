//! Who a job is inside its container: the image's `USER`, but never root. Pure.

use std::num::ParseIntError;

use sway_core::manifest::RunConfig;

use super::RunError;

/// Runs what the image would run as root: the id that distroless images call `nonroot`.
pub(crate) const NOBODY: u32 = 65_532;

/// `/etc/passwd` and `/etc/group` of an image, empty where they are missing or not needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccountFiles {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

/// A job's user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) additional_gids: Vec<u32>,
    /// Home directory by the image's `/etc/passwd`.
    pub(crate) home: Option<String>,
}

/// Whether the image's `USER` can be known only from its account files: reading them may cost a
/// round trip to the fileserver.
pub(crate) fn needs_account_files(config: &RunConfig) -> bool {
    !matches!(config.user.as_str(), "" | "0" | "root" | "0:0" | "root:root")
}

/// Reads `user[:group]`, names or numbers, as Docker does: a user without an entry has group 0.
pub(crate) fn resolve(
    config: &RunConfig,
    files: &AccountFiles,
    allow_root: bool,
) -> Result<User, RunError> {
    let (user, group) = match config.user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (config.user.as_str(), None),
    };
    let user = if user.is_empty() { "root" } else { user };
    let passwd = files.passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some((name, number(uid).ok()?, number(gid).ok()?, home))
    });
    let found = passwd
        .clone()
        .find(|&(name, ..)| name == user)
        .or_else(|| passwd.clone().find(|&(_, uid, ..)| number(user) == Ok(uid)));
    let unknown = |what: &str, name: &str| {
        RunError::Refused(format!("the image's USER names the {what} {name}, which it lacks"))
    };
    let (name, uid, gid, home) = match found {
        Some((name, uid, gid, home)) => (Some(name), uid, gid, Some(home.to_owned())),
        None if user == "root" => (None, 0, 0, None),
        None => (None, number(user).map_err(|_| unknown("user", user))?, 0, None),
    };
    if uid == 0 && !allow_root {
        return Ok(User { uid: NOBODY, gid: NOBODY, additional_gids: vec![], home: None });
    }
    let groups = files.group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, gid, members] = fields.as_slice() else { return None };
        Some((name, number(gid).ok()?, members))
    });
    if let Some(group) = group {
        let gid = groups
            .clone()
            .find_map(|(name, gid, _)| (name == group).then_some(gid))
            .or_else(|| number(group).ok())
            .ok_or_else(|| unknown("group", group))?;
        return Ok(User { uid, gid, additional_gids: vec![], home });
    }
    let is_member = |members: &str| name.is_some_and(|name| members.split(',').any(|m| m == name));
    let mut additional_gids: Vec<u32> =
        groups.filter(|(_, _, members)| is_member(members)).map(|(_, gid, _)| gid).collect();
    additional_gids.retain(|&other| other != gid);
    Ok(User { uid, gid, additional_gids, home })
}

fn number(text: &str) -> Result<u32, ParseIntError> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(user: &str) -> Result<User, RunError> {
        let files = AccountFiles {
            passwd: "root:x:0:0::/root:/bin/sh\nada:x:1000:1001:Ada,,,:/home/ada:/bin/sh\n".into(),
            group: "staff:x:50:bob,ada\nada:x:1001:\n".into(),
        };
        resolve(&RunConfig { user: user.into(), ..RunConfig::default() }, &files, false)
    }

    #[test]
    fn root_becomes_nobody_unless_the_worker_allows_it() {
        for user in ["", "0", "root", "root:root", "0:50"] {
            assert_eq!(resolved(user).unwrap().uid, NOBODY, "{user:?}");
        }
        let config = RunConfig::default();
        assert_eq!(resolve(&config, &AccountFiles::default(), true).unwrap().uid, 0);
    }

    #[test]
    fn names_and_numbers_lead_to_the_images_accounts() {
        let ada = User {
            uid: 1000,
            gid: 1001,
            additional_gids: vec![50],
            home: Some("/home/ada".into()),
        };
        assert_eq!(resolved("ada").unwrap(), ada);
        assert_eq!(resolved("1000").unwrap(), ada);
        let grouped = User { gid: 50, additional_gids: vec![], ..ada };
        assert_eq!(resolved("ada:staff").unwrap(), grouped);
        assert_eq!(resolved("1000:50").unwrap(), grouped);
        let stranger = User { uid: 4242, gid: 0, additional_gids: vec![], home: None };
        assert_eq!(resolved("4242").unwrap(), stranger);
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(resolved("eve").unwrap_err().to_string().contains("eve"));
        assert!(resolved("ada:eves").unwrap_err().to_string().contains("eves"));
    }
}
