//! Users and tokens: who may come in beside the operator of the data directory.
//!
//! All of them are in memory, so that no request waits for the database to know who sends it. A
//! change is written down first and holds from then on; there is one at a time. A secret is told
//! once, when its token is made, and kept as a hash; `sway_<id>_…` names its row, so that what is
//! looked up is public, and what is secret is compared in constant time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use subtle::ConstantTimeEq as _;
use sway_core::access::{Role, Scope, Scopes};
use sway_core::api::users::{MadeToken, NewToken, NewUser, TokenView, UserView};
use sway_core::name::{LIBRARY, UserName};
use sway_server::guard::{ANONYMOUS, Authority, Identity, OPERATOR, WrongToken};
use sway_server::tasks::Tasks;
use sway_server::token::{Token, hash_of, random_hex};

use crate::db::{Caller, Db, DbError, TokenRow, now, rfc3339};
use crate::passes::WORKER;

/// Users on record, revoked ones included.
const USERS_MAX: usize = 10_000;

/// Tokens on record. Beyond this, the one that was revoked longest ago is forgotten.
const TOKENS_MAX: usize = 10_000;

/// Tokens of one user that open something.
const TOKENS_OF_USER_MAX: usize = 100;

const LABEL_LEN_MAX: usize = 100;

/// Names that stand for somebody else than a user.
const RESERVED: [&str; 4] = [OPERATOR, ANONYMOUS, LIBRARY, WORKER];

/// How exactly it is known when a token was used last: each note is a write to the disk.
const USED_STEP: Duration = Duration::from_secs(3600);

/// Why a user or token is not changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Not a user of this worker.
    #[error("there is no user {0}")]
    NoUser(UserName),
    /// Nobody who decides on jobs; why is not told.
    #[error("{0} decides on no jobs at this worker")]
    NoOwner(UserName),
    /// Not a token, or not for this caller.
    #[error("there is no token {0:?}")]
    NoToken(String),
    /// There is one already.
    #[error("there is a user {0} already")]
    Exists(UserName),
    /// Nobody's name.
    #[error("{0} can't be a user's name: it is reserved")]
    Reserved(UserName),
    /// More than the role allows.
    #[error("a token of {user}, who is {role}, can't have {scopes}: there may be {allowed}")]
    Scopes {
        /// Whose token.
        user: UserName,
        /// The user's role.
        role: Role,
        /// What was asked for.
        scopes: Scopes,
        /// What the role allows.
        allowed: Scopes,
    },
    /// Too long, or none of text.
    #[error("a label has 1 to {LABEL_LEN_MAX} characters, none of them a control character")]
    Label,
    /// Ends at once, or never.
    #[error("a token lasts between 1 second and 100 years")]
    Expiry,
    /// The bound of what is kept.
    #[error("there are {0} already, and no more fit")]
    TooMany(&'static str),
    /// It can't be written down.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// All users and tokens. Clones share them.
#[derive(Clone, Debug)]
pub struct Users(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    operator: Token,
    db: Db,
    tasks: Tasks,
    /// Held over a change: from the check, over the disk, to memory.
    changing: tokio::sync::Mutex<()>,
    /// Locked for moments.
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    users: BTreeMap<UserName, UserView>,
    /// By their ids.
    tokens: HashMap<String, TokenRow>,
}

impl Users {
    /// Those of the database, and the operator with the data directory's token.
    pub async fn open(operator: Token, db: Db, tasks: Tasks) -> Result<Self, DbError> {
        let users = db.users().await?.into_iter().map(|user| (user.name.clone(), user)).collect();
        let tokens = db.tokens().await?;
        let tokens = tokens.into_iter().map(|token| (token.view.id.clone(), token)).collect();
        Ok(Self(Arc::new(Inner {
            operator,
            db,
            tasks,
            changing: tokio::sync::Mutex::default(),
            known: RwLock::new(Known { users, tokens }),
        })))
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All users, sorted by name.
    pub fn users(&self) -> Vec<UserView> {
        self.known().users.values().cloned().collect()
    }

    /// The role of whoever holds a token that was accepted.
    pub fn role(&self, identity: &Identity) -> Role {
        let known = self.known();
        let of_token = identity.token.as_deref().and_then(|id| known.tokens.get(id));
        let user = of_token.and_then(|token| known.users.get(&token.view.user));
        user.map_or(Role::Operator, |user| user.role)
    }

    /// Refuses an owner who can't decide on jobs. Whoever may submit can learn who can; a stranger, a
    /// submitter and a user who was revoked are told apart by nobody. The operator speaks for any
    /// name, and so may address any.
    pub fn check_owner(&self, submitter: &Identity, owner: &UserName) -> Result<(), UsersError> {
        if submitter.is_operator() || owner.as_ref() == OPERATOR {
            return Ok(());
        }
        let known = self.known();
        let decides = known.users.get(owner).is_some_and(|user| {
            user.revoked_at.is_none() && user.role.scopes().contains(Scope::Approve)
        });
        if decides { Ok(()) } else { Err(UsersError::NoOwner(owner.clone())) }
    }

    /// Whom the token of this id speaks for, if it still opens something, and what is kept of its
    /// secret; without an id, the operator's.
    pub fn holder(&self, id: Option<&str>) -> Option<(Identity, [u8; 32])> {
        let Some(id) = id else {
            return Some((Identity::operator(), hash_of(self.0.operator.expose())));
        };
        let known = self.known();
        let row = known.tokens.get(id)?;
        Some((known.identity(row, &now()).ok()?, row.hash))
    }

    /// The tokens of one user, or of everybody, the newest first.
    pub fn tokens(&self, of: Option<&UserName>) -> Vec<TokenView> {
        let known = self.known();
        let rows = known.tokens.values().map(|row| &row.view);
        let mut tokens: Vec<_> =
            rows.filter(|token| of.is_none_or(|of| token.user == *of)).cloned().collect();
        tokens.sort_by(|a, b| (&b.created_at, &b.id).cmp(&(&a.created_at, &a.id)));
        tokens
    }

    /// Adds a user; one that was revoked comes back without tokens.
    pub async fn add_user(&self, caller: Caller, new: NewUser) -> Result<UserView, UsersError> {
        if RESERVED.contains(&new.name.as_ref()) {
            return Err(UsersError::Reserved(new.name));
        }
        let _changing = self.0.changing.lock().await;
        {
            let known = self.known();
            match known.users.get(&new.name) {
                Some(user) if user.revoked_at.is_none() => {
                    return Err(UsersError::Exists(new.name));
                }
                None if known.users.len() >= USERS_MAX => {
                    return Err(UsersError::TooMany("users"));
                }
                Some(_) | None => {}
            }
        }
        let user = UserView { name: new.name, role: new.role, created_at: now(), revoked_at: None };
        self.0.db.put_user(user.clone(), caller).await?;
        self.known_mut().users.insert(user.name.clone(), user.clone());
        tracing::info!(user = %user.name, role = %user.role, "user added");
        Ok(user)
    }

    /// Ends a user, and every token of it.
    pub async fn revoke_user(
        &self,
        caller: Caller,
        name: &UserName,
    ) -> Result<UserView, UsersError> {
        let _changing = self.0.changing.lock().await;
        if !self.known().users.contains_key(name) {
            return Err(UsersError::NoUser(name.clone()));
        }
        let now = now();
        self.0.db.revoke_user(name.clone(), now.clone(), caller).await?;
        let mut known = self.known_mut();
        let tokens = known.tokens.values_mut().map(|row| &mut row.view);
        for token in tokens.filter(|token| token.user == *name) {
            token.revoked_at.get_or_insert_with(|| now.clone());
        }
        let user = known.users.get_mut(name).expect("users are never forgotten");
        user.revoked_at.get_or_insert(now);
        tracing::info!(user = %name, "user revoked");
        Ok(user.clone())
    }

    /// Makes a token of a user.
    pub async fn add_token(&self, caller: Caller, new: NewToken) -> Result<MadeToken, UsersError> {
        if new.label.as_deref().is_some_and(|label| !is_label(label)) {
            return Err(UsersError::Label);
        }
        let label = new.label.unwrap_or_default();
        let expires_at = new.expires_in_s.map(expiry).transpose()?;
        let _changing = self.0.changing.lock().await;
        let now = now();
        let (scopes, instead_of) = {
            let known = self.known();
            let user = known.users.get(&new.user).filter(|user| user.revoked_at.is_none());
            let role = user.ok_or_else(|| UsersError::NoUser(new.user.clone()))?.role;
            let (allowed, scopes) = (role.scopes(), new.scopes.unwrap_or(role.scopes()));
            if scopes.is_empty() || !scopes.is_subset(allowed) {
                return Err(UsersError::Scopes { user: new.user, role, scopes, allowed });
            }
            let rows = known.tokens.values();
            let of_user = rows.filter(|row| row.view.user == new.user && row.ended(&now).is_none());
            if of_user.count() >= TOKENS_OF_USER_MAX {
                return Err(UsersError::TooMany("tokens of this user"));
            }
            (scopes, known.to_forget(&now)?)
        };
        let id = random_hex::<6>();
        let secret = format!("sway_{id}_{}", random_hex::<32>());
        let view = TokenView {
            id: id.clone(),
            user: new.user,
            label,
            scopes,
            created_at: now,
            expires_at,
            last_used_at: None,
            revoked_at: None,
        };
        let row = TokenRow { hash: hash_of(&secret), view: view.clone() };
        self.0.db.put_token(row.clone(), instead_of.clone(), caller).await?;
        let mut known = self.known_mut();
        if let Some(id) = instead_of {
            known.tokens.remove(&id);
        }
        known.tokens.insert(id, row);
        tracing::info!(user = %view.user, token.id = view.id, scopes = %view.scopes, "token made");
        Ok(MadeToken { secret, token: view })
    }

    /// Ends a token of `of`, or of anybody.
    pub async fn revoke_token(
        &self,
        caller: Caller,
        id: &str,
        of: Option<&UserName>,
    ) -> Result<TokenView, UsersError> {
        let _changing = self.0.changing.lock().await;
        let is_there = |row: &TokenRow| of.is_none_or(|of| row.view.user == *of);
        if !self.known().tokens.get(id).is_some_and(is_there) {
            return Err(UsersError::NoToken(id.chars().take(40).collect()));
        }
        let now = now();
        self.0.db.revoke_token(id.to_owned(), now.clone(), caller).await?;
        let mut known = self.known_mut();
        let row = known.tokens.get_mut(id).expect("only a change forgets a token");
        row.view.revoked_at.get_or_insert(now);
        tracing::info!(user = %row.view.user, token.id = id, "token revoked");
        Ok(row.view.clone())
    }

    /// Notes now and then that a token is in use.
    fn note_used(&self, id: &str, now: String) {
        let before = rfc3339(SystemTime::now() - USED_STEP);
        let is_stale = |row: &TokenRow| row.view.last_used_at.as_ref() < Some(&before);
        if !self.known().tokens.get(id).is_some_and(is_stale) {
            return;
        }
        if let Some(row) = self.known_mut().tokens.get_mut(id) {
            row.view.last_used_at = Some(now.clone());
        }
        let (db, id) = (self.0.db.clone(), id.to_owned());
        self.0.tasks.spawn("note a token's use", async move {
            if let Err(error) = db.note_token_used(id, now).await {
                tracing::warn!(%error, "when a token was used is not on record");
            }
        });
    }
}

impl Authority for Users {
    fn identify(&self, secret: &str) -> Result<Identity, WrongToken> {
        if self.0.operator.matches(secret) {
            return Ok(Identity::operator());
        }
        let rest = secret.strip_prefix("sway_").and_then(|rest| rest.split_once('_'));
        let (id, _) = rest.ok_or(WrongToken::Unknown)?;
        let now = now();
        let identity = {
            let known = self.known();
            let row = known.tokens.get(id).ok_or(WrongToken::Unknown)?;
            if !bool::from(row.hash.ct_eq(&hash_of(secret))) {
                return Err(WrongToken::Unknown);
            }
            known.identity(row, &now)?
        };
        self.note_used(id, now);
        Ok(identity)
    }
}

impl Known {
    /// Whom a token speaks for at `now`.
    fn identity(&self, row: &TokenRow, now: &str) -> Result<Identity, WrongToken> {
        if let Some(ended) = row.ended(now) {
            return Err(ended);
        }
        let user = self.users.get(&row.view.user).ok_or(WrongToken::Revoked)?;
        let scopes = row.view.scopes.intersection(user.role.scopes());
        let token = Some(row.view.id.as_str().into());
        Ok(Identity { user: user.name.clone(), scopes, token })
    }

    /// The token that makes place for another one, where place is needed.
    fn to_forget(&self, now: &str) -> Result<Option<String>, UsersError> {
        if self.tokens.len() < TOKENS_MAX {
            return Ok(None);
        }
        let ended = self.tokens.values().filter(|row| row.ended(now).is_some());
        let oldest = ended.min_by(|a, b| a.view.created_at.cmp(&b.view.created_at));
        oldest.map(|row| Some(row.view.id.clone())).ok_or(UsersError::TooMany("tokens"))
    }
}

impl TokenRow {
    /// Why it opens nothing at `now`. All times have one form, whose order is that of time.
    fn ended(&self, now: &str) -> Option<WrongToken> {
        let expires_at = self.view.expires_at.as_deref();
        match self.view.revoked_at {
            Some(_) => Some(WrongToken::Revoked),
            None => expires_at.is_some_and(|end| end <= now).then_some(WrongToken::Expired),
        }
    }
}

fn is_label(text: &str) -> bool {
    (1..=LABEL_LEN_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn expiry(seconds: u64) -> Result<String, UsersError> {
    const HUNDRED_YEARS_S: u64 = 100 * 366 * 24 * 3600;
    if !(1..=HUNDRED_YEARS_S).contains(&seconds) {
        return Err(UsersError::Expiry);
    }
    Ok(rfc3339(SystemTime::now() + Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOSS: Caller = Caller::WORKER;

    async fn open(data: &tempfile::TempDir) -> Users {
        let db = Db::open(&data.path().join("worker.db")).unwrap();
        Users::open(Token::parse("operators").unwrap(), db, Tasks::new()).await.unwrap()
    }

    fn user(name: &str, role: Role) -> NewUser {
        NewUser { name: name.parse().unwrap(), role }
    }

    fn token(name: &str) -> NewToken {
        NewToken {
            user: name.parse().unwrap(),
            label: Some("laptop".to_owned()),
            scopes: None,
            expires_in_s: None,
        }
    }

    #[tokio::test]
    async fn a_token_opens_what_its_user_may_until_it_is_revoked() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        assert_eq!(users.identify("operators").unwrap(), Identity::operator());
        users.add_user(BOSS, user("ada", Role::Owner)).await.unwrap();
        let made = users.add_token(BOSS, token("ada")).await.unwrap();
        assert!(made.secret.len() >= 64 && !format!("{made:?}").contains(&made.secret));
        let identity = users.identify(&made.secret).unwrap();
        assert_eq!((identity.user.as_ref(), identity.scopes), ("ada", Role::Owner.scopes()));
        assert_eq!(users.role(&identity), Role::Owner);
        for wrong in ["", "sway_", "sway__", &format!("sway_{}_", made.token.id), &made.token.id] {
            assert_eq!(users.identify(wrong), Err(WrongToken::Unknown), "{wrong}");
        }
        // Another worker on the same data knows it too, and when it was used.
        users.0.tasks.shutdown(Duration::from_secs(60)).await;
        let again = open(&data).await;
        assert_eq!(again.identify(&made.secret), Ok(identity));
        assert!(again.tokens(None)[0].last_used_at.is_some());
        again.revoke_token(BOSS, &made.token.id, None).await.unwrap();
        assert_eq!(again.identify(&made.secret), Err(WrongToken::Revoked));
        assert_eq!(open(&data).await.identify(&made.secret), Err(WrongToken::Revoked));
    }

    #[tokio::test]
    async fn the_audit_tells_who_added_and_ended_what() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        let caller = Caller {
            user: Some("operator".parse().unwrap()),
            token: None,
            peer: Some("192.0.2.1".to_owned()),
        };
        users.add_user(caller.clone(), user("ada", Role::Owner)).await.unwrap();
        let made = users.add_token(caller.clone(), token("ada")).await.unwrap();
        for _ in 0..2 {
            users.revoke_token(caller.clone(), &made.token.id, None).await.unwrap();
            users.revoke_user(caller.clone(), &"ada".parse().unwrap()).await.unwrap();
        }
        let entries = users.0.db.audit(None, 0, 100).await.unwrap().entries;
        let told: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
        // What changed nothing is not told.
        assert_eq!(told, ["user_added", "token_added", "token_revoked", "user_revoked"]);
        let of_token: serde_json::Value = serde_json::from_str(&entries[1].detail).unwrap();
        assert_eq!(of_token["token"], made.token.id);
        for entry in &entries {
            assert_eq!((entry.actor.as_str(), entry.peer.as_str()), ("operator", "192.0.2.1"));
        }
        assert!(!entries[1].detail.contains(made.secret.rsplit_once('_').unwrap().1));
    }

    #[tokio::test]
    async fn no_secret_is_in_the_database() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        users.add_user(BOSS, user("ada", Role::Owner)).await.unwrap();
        let made = users.add_token(BOSS, token("ada")).await.unwrap();
        let (_, random) = made.secret.rsplit_once('_').unwrap();
        let files: Vec<_> = std::fs::read_dir(data.path()).unwrap().map(Result::unwrap).collect();
        let found = |needle: &str| {
            let contains = |path| {
                let bytes = std::fs::read(path).unwrap();
                bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
            };
            files.iter().any(|file| contains(file.path()))
        };
        assert!(found(&made.token.id) && !found(random));
    }

    #[tokio::test]
    async fn a_users_end_is_its_tokens_end_also_where_the_user_comes_back() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        users.add_user(BOSS, user("ada", Role::Owner)).await.unwrap();
        let exists = users.add_user(BOSS, user("ada", Role::Operator)).await;
        assert!(matches!(exists, Err(UsersError::Exists(_))));
        let made = users.add_token(BOSS, token("ada")).await.unwrap();
        users.revoke_user(BOSS, &"ada".parse().unwrap()).await.unwrap();
        assert_eq!(users.identify(&made.secret), Err(WrongToken::Revoked));
        assert!(matches!(users.add_token(BOSS, token("ada")).await, Err(UsersError::NoUser(_))));
        users.add_user(BOSS, user("ada", Role::Submitter)).await.unwrap();
        assert_eq!(users.identify(&made.secret), Err(WrongToken::Revoked));
        let again = open(&data).await;
        assert_eq!(again.identify(&made.secret), Err(WrongToken::Revoked));
        assert_eq!(again.users()[0].role, Role::Submitter);
    }

    #[tokio::test]
    async fn a_token_has_at_most_what_the_role_allows() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        users.add_user(BOSS, user("sue", Role::Submitter)).await.unwrap();
        let asking = async |scopes: Scopes| {
            users.add_token(BOSS, NewToken { scopes: Some(scopes), ..token("sue") }).await
        };
        for scope in Scope::ALL {
            let allowed = Role::Submitter.scopes().contains(scope);
            assert_eq!(asking(Scopes::of(&[scope])).await.is_ok(), allowed, "{scope}");
        }
        assert!(matches!(asking(Scopes::NONE).await, Err(UsersError::Scopes { .. })));
        let made = asking(Scopes::of(&[Scope::Read])).await.unwrap();
        assert_eq!(users.identify(&made.secret).unwrap().scopes, Scopes::of(&[Scope::Read]));
    }

    #[tokio::test]
    async fn a_token_expires() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        users.add_user(BOSS, user("ada", Role::Owner)).await.unwrap();
        let lasting = |expires_in_s| NewToken { expires_in_s: Some(expires_in_s), ..token("ada") };
        let made = users.add_token(BOSS, lasting(3600)).await.unwrap();
        assert!(users.identify(&made.secret).is_ok());
        let row = users.known().tokens[&made.token.id].clone();
        let at = rfc3339(SystemTime::now() + Duration::from_secs(3601));
        assert_eq!(users.known().identity(&row, &at), Err(WrongToken::Expired));
        for seconds in [0, u64::MAX] {
            let refused = users.add_token(BOSS, lasting(seconds)).await;
            assert!(matches!(refused, Err(UsersError::Expiry)), "{seconds}");
        }
    }

    #[tokio::test]
    async fn reserved_names_and_wild_labels_are_refused() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        for name in RESERVED {
            let refused = users.add_user(BOSS, user(name, Role::Owner)).await;
            assert!(matches!(refused, Err(UsersError::Reserved(_))), "{name}");
        }
        users.add_user(BOSS, user("ada", Role::Owner)).await.unwrap();
        for label in [String::new(), "x".repeat(101), "a\u{1b}[31m".to_owned()] {
            let refused =
                users.add_token(BOSS, NewToken { label: Some(label), ..token("ada") }).await;
            assert!(matches!(refused, Err(UsersError::Label)));
        }
    }

    #[tokio::test]
    async fn nobody_ends_a_token_of_somebody_else_and_a_user_has_not_too_many() {
        let data = tempfile::tempdir().unwrap();
        let users = open(&data).await;
        users.add_user(BOSS, user("ada", Role::Owner)).await.unwrap();
        let made = users.add_token(BOSS, token("ada")).await.unwrap();
        let (ada, bob) = ("ada".parse().unwrap(), "bob".parse().unwrap());
        let foreign = users.revoke_token(BOSS, &made.token.id, Some(&bob)).await.unwrap_err();
        let missing = users.revoke_token(BOSS, "nothing", Some(&bob)).await.unwrap_err();
        assert_eq!(
            foreign.to_string().replace(&made.token.id, "_"),
            missing.to_string().replace("nothing", "_")
        );
        for _ in 1..TOKENS_OF_USER_MAX {
            users.add_token(BOSS, token("ada")).await.unwrap();
        }
        let refused = users.add_token(BOSS, token("ada")).await;
        assert!(matches!(refused, Err(UsersError::TooMany(_))));
        users.revoke_token(BOSS, &made.token.id, Some(&ada)).await.unwrap();
        users.add_token(BOSS, token("ada")).await.unwrap();
    }
}
