//! What a caller may prove to a registry; never printed.

use std::fmt;

/// Credentials for one pull, as the CRI's `AuthConfig` carries them.
///
/// Every field is optional. Precedence: `registry_token`, `identity_token`, `username` and `password`,
/// `auth`. They go to the registry that the reference names (or to `server_address`), not to mirrors on
/// other hosts. `Debug` shows which fields are set, never what is in them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name for Basic authentication or for the token service.
    pub username: Option<String>,
    /// Password that belongs to `username`.
    pub password: Option<String>,
    /// `base64(username:password)`, used when `username` is not set.
    pub auth: Option<String>,
    /// OAuth2 refresh token, exchanged at the registry's token service.
    pub identity_token: Option<String>,
    /// Bearer token, sent to the registry as it is.
    pub registry_token: Option<String>,
    /// Registry host that the credentials are for; `None` means the one that the reference names.
    pub server_address: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |field: &Option<String>| field.as_ref().map(|_| "<redacted>");
        f.debug_struct("Credentials")
            .field("username", &shown(&self.username))
            .field("password", &shown(&self.password))
            .field("auth", &shown(&self.auth))
            .field("identity_token", &shown(&self.identity_token))
            .field("registry_token", &shown(&self.registry_token))
            .field("server_address", &self.server_address)
            .finish()
    }
}
