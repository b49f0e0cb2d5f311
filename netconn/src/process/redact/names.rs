//! Names of secrets: options, variables, headers and members of JSON whose values nobody else may read.

/// Which part of a value is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secret {
    /// All of it.
    Whole,
    /// All of it, unless it is the path of a file.
    Key,
    /// What stands behind the first colon: `user:password`.
    AfterColon,
    /// What stands behind the first percent sign: `user%password` of Samba.
    AfterPercent,
    /// What stands behind the first comma: `user,password` of lftp.
    AfterComma,
    /// What stands between the first slash and the last `@`: `user/password@service` of Oracle.
    AfterSlash,
    /// All of it, unless it says where the secret is: `env:NAME`, `file:PATH` (openssl-passphrase-options(1)).
    Phrase,
    /// All of it, unless it says which secret is meant: `id=NAME,src=FILE` of Docker.
    Named,
    /// What stands behind the scheme: `Bearer TOKEN`, `Basic BASE64`.
    Header,
    /// All of a list of cookies.
    Cookies,
}

/// Ends of names, without separators and in lower case.
const ENDS: [&str; 17] = [
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "secretkey",
    "authkey",
    "accountkey",
    "encryptionkey",
    "signingkey",
    "masterkey",
    "sharedkey",
    "storagekey",
    "subscriptionkey",
];

/// Whole names, without separators and in lower case: too short for the end of a name, or with a value of which a part is no secret.
const NAMES: [(&str, Secret); 27] = [
    ("auth", Secret::AfterColon),
    ("basicauth", Secret::AfterColon),
    ("bearer", Secret::Whole),
    ("bindpw", Secret::Whole),
    ("cookie", Secret::Cookies),
    ("creds", Secret::AfterColon),
    ("destcreds", Secret::AfterColon),
    ("srccreds", Secret::AfterColon),
    ("functionskey", Secret::Whole),
    ("httpauth", Secret::AfterColon),
    ("jwt", Secret::Whole),
    ("masterauth", Secret::Whole),
    ("oauth2bearer", Secret::Whole),
    ("passin", Secret::Phrase),
    ("passout", Secret::Phrase),
    ("secret", Secret::Named),
    ("psk", Secret::Whole),
    ("rediscliauth", Secret::Whole),
    // Of a connection to a database; the shell's own is a folder.
    ("pwd", Secret::Key),
    ("requirepass", Secret::Whole),
    ("rootpw", Secret::Whole),
    ("secretid", Secret::Whole),
    ("setcookie", Secret::Cookies),
    ("sopin", Secret::Whole),
    ("sshpass", Secret::Whole),
    ("userpin", Secret::Whole),
    ("wpapsk", Secret::Whole),
];

/// Names of HTTP headers that have a scheme before the secret.
const HEADERS: [&str; 2] = ["authorization", "proxyauthorization"];

/// Last words of a name, at the beginning of which a word begins: `db-pass`, `MYSQL_PWD`, but not `bypass`.
const LAST_WORDS: [&str; 4] = ["pass", "pw", "pwd", "credentials"];

/// Names that end like those of secrets, and are none: numbers of pages, and what is the name of a secret.
const HARMLESS: [&str; 11] = [
    "pagetoken",
    "nexttoken",
    "startingtoken",
    "continuationtoken",
    "paginationtoken",
    "resumetoken",
    "synctoken",
    "pullsecret",
    "imagepullsecret",
    "tlssecret",
    "authuserpass",
];

/// First words of options that say what to do about a secret, and take none: `--ask-pass`, `--no-password`.
const VERBS: [&str; 26] = [
    "no", "with", "without", "ask", "prompt", "use", "has", "skip", "show", "read", "allow", "disable", "enable",
    "require", "generate", "rotate", "list", "create", "delete", "print", "hide", "validate", "verify", "check",
    "save", "stdin",
];

/// Most letters of a name that are looked at, from its end.
const LETTERS_MAX: usize = 48;

/// A name in lower case without separators.
struct Squeezed {
    letters: [u8; LETTERS_MAX],
    length: usize,
    /// Where its last word begins.
    last_word: usize,
}

impl Squeezed {
    fn new(name: &str) -> Self {
        let mut squeezed = Self { letters: [0; LETTERS_MAX], length: 0, last_word: 0 };
        let bytes = name.as_bytes();
        // A longer name has twice as many bytes at most: a separator between all letters.
        let bytes = bytes.get(bytes.len().saturating_sub(LETTERS_MAX)..).unwrap_or(bytes);
        let mut before = b'_';
        for byte in bytes {
            let begins = !before.is_ascii_alphanumeric() || (before.is_ascii_lowercase() && byte.is_ascii_uppercase());
            before = *byte;
            if byte.is_ascii_alphanumeric()
                && let Some(to) = squeezed.letters.get_mut(squeezed.length)
            {
                *to = byte.to_ascii_lowercase();
                if begins {
                    squeezed.last_word = squeezed.length;
                }
                squeezed.length += 1;
            }
        }
        squeezed
    }

    fn all(&self) -> &[u8] {
        self.letters.get(..self.length).unwrap_or_default()
    }

    fn last_word(&self) -> &[u8] {
        self.all().get(self.last_word..).unwrap_or_default()
    }
}

/// Returns whether a name ends in letters in which a name of a secret can end. Most names do not, and nothing more is asked of them.
fn may_be_secret(name: &str) -> bool {
    let [.., before, last] = name.as_bytes() else { return false };
    let third = name.len().checked_sub(3).and_then(|place| name.as_bytes().get(place)).copied().unwrap_or(b'_');
    let end = [third, *before, *last].map(|byte| byte.to_ascii_lowercase());
    matches!(
        &end,
        b"ord"
            | b"swd"
            | b"ase"
            | b"ode"
            | b"ret"
            | b"ken"
            | b"key"
            | b"ass"
            | b"als"
            | b"pwd"
            | b"uth"
            | b"rer"
            | b"kie"
            | b"eds"
            | b"jwt"
            | b"sin"
            | b"out"
            | b"psk"
            | b"pin"
            | b"tid"
            | b"ion"
            | [_, b'p', b'w']
    )
}

/// Returns which part of the value is secret that has this name; `None` if it is none.
pub(super) fn secret(name: &str) -> Option<Secret> {
    if !may_be_secret(name) {
        return None;
    }
    let squeezed = Squeezed::new(name);
    let all = squeezed.all();
    if let Some((_, secret)) = NAMES.iter().find(|(known, _)| known.as_bytes() == all) {
        return Some(*secret);
    }
    if HEADERS.iter().any(|known| known.as_bytes() == all) {
        return Some(Secret::Header);
    }
    let is_secret = ENDS.iter().any(|end| all.ends_with(end.as_bytes()))
        || LAST_WORDS.iter().any(|word| word.as_bytes() == squeezed.last_word());
    if all.ends_with(b"privatekey") {
        return Some(Secret::Key);
    }
    if !is_secret || HARMLESS.iter().any(|harmless| all.ends_with(harmless.as_bytes())) {
        return None;
    }
    let is_file = squeezed.last_word() == b"credentials";
    Some(if is_file { Secret::Key } else { Secret::Whole })
}

/// As [`secret`], for an option whose value would be the next argument: `--ask-pass` has none.
pub(super) fn secret_of_option(name: &str) -> Option<Secret> {
    let first = name.split(['-', '_']).next().unwrap_or_default();
    if VERBS.iter().any(|verb| verb.eq_ignore_ascii_case(first)) { None } else { secret(name) }
}

/// Returns whether a parameter of an address in the web is a secret: a signature gives access as a password does.
pub(super) fn is_signature(name: &str) -> bool {
    ["sig", "signature", "x-amz-signature", "x-goog-signature"].iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Returns whether a word names how a header proves who asks; the secret stands behind it (RFC 9110, 11.1).
pub(super) fn is_scheme(word: &str) -> bool {
    ["basic", "bearer", "token", "digest", "negotiate", "apikey", "ntlm", "sso-key", "aws4-hmac-sha256"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_of_the_tables_is_passed_over() {
        let names =
            NAMES.iter().map(|(name, _)| *name).chain(ENDS).chain(HEADERS).chain(LAST_WORDS).chain(["privatekey"]);
        names.for_each(|name| assert!(secret(name).is_some() && secret(&name.to_uppercase()).is_some(), "{name}"));
    }

    #[test]
    fn names_of_secrets_are_told_from_others() {
        for name in [
            "password",
            "PGPASSWORD",
            "MYSQL_PWD",
            "db-pass",
            "dbPass",
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "api_key",
            "javax.net.ssl.trustStorePassword",
            "X-Vault-Token",
            "REDISCLI_AUTH",
            "client_secret",
            "_authToken",
            "AccountKey",
        ] {
            assert!(secret(name).is_some(), "{name}");
        }
        for name in [
            "password-file",
            "token-endpoint",
            "bypass",
            "compass",
            "tokens",
            "max-tokens",
            "next-token",
            "pull-secret",
            "key",
            "passthrough",
            "token-ttl",
            "password-stdin",
            "",
            "pid",
            "secrets",
        ] {
            assert_eq!(secret(name), None, "{name}");
        }
        assert_eq!(secret_of_option("ask-pass"), None);
        assert_eq!(secret_of_option("new-password"), Some(Secret::Whole));
        assert_eq!(secret(&format!("{}PASSWORD", "x".repeat(1000))), Some(Secret::Whole));
        assert_eq!(secret("Authorization"), Some(Secret::Header));
    }
}
