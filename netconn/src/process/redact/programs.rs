//! Programs whose short options take secrets: one letter means something else in each program.

use std::sync::LazyLock;

use hashbrown::HashMap;

use super::names::Secret;

/// Where the secret of a short option stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the same argument or in the next one, as in getopt(3).
    Either,
    /// In the same argument only: without one, the program asks.
    Same,
    /// In the next argument only.
    Next,
}

/// A program, or several with the same options.
#[derive(Debug)]
pub(super) struct Program {
    /// Names of executables.
    names: &'static [&'static str],
    /// Letters of options without a value, which may stand before a secret one in the same argument: `-sSu`.
    flags: &'static str,
    /// Letters of options with a secret.
    pub(super) secrets: &'static [(char, Secret, Place)],
    /// Long options with a secret that their name does not tell.
    pub(super) longs: &'static [(&'static str, Secret)],
    /// Long options that would be secrets elsewhere.
    pub(super) harmless: &'static [&'static str],
    /// The short options count behind this word only: `docker login -p`, but not `docker run -p`.
    pub(super) after: Option<&'static str>,
    /// Words before a secret that are no options.
    pub(super) words: &'static [&'static str],
    /// It starts another program, which has options of its own.
    pub(super) is_prefix: bool,
    /// With this letter among its short options, the last word is a secret.
    pub(super) last_with: Option<char>,
    /// Any argument may be `user/password@service`.
    pub(super) has_slashes: bool,
}

impl Program {
    const fn new(names: &'static [&'static str], secrets: &'static [(char, Secret, Place)]) -> Self {
        Self {
            names,
            flags: "",
            secrets,
            longs: &[],
            harmless: &[],
            after: None,
            words: &[],
            is_prefix: false,
            last_with: None,
            has_slashes: false,
        }
    }

    /// Returns what a bundle of short options says: the secret, where it stands, and where the rest of the argument begins. `letters` is
    /// the argument without its hyphen.
    pub(super) fn secret_in(&self, letters: &str) -> Option<(Secret, Place, usize)> {
        for (place, letter) in letters.char_indices() {
            if let Some((_, secret, form)) = self.secrets.iter().find(|(known, ..)| *known == letter) {
                return Some((*secret, *form, place + letter.len_utf8()));
            }
            if !self.flags.contains(letter) {
                return None;
            }
        }
        None
    }
}

const EITHER: Place = Place::Either;

/// All of them.
static PROGRAMS: [Program; 27] = [
    Program {
        flags: "0123469#aBfgGiIjJklLMnNOpqRsSvVZ",
        longs: &[
            ("user", Secret::AfterColon),
            ("proxy-user", Secret::AfterColon),
            ("cert", Secret::AfterColon),
            ("proxy-cert", Secret::AfterColon),
        ],
        ..Program::new(
            &["curl"],
            &[
                ('u', Secret::AfterColon, EITHER),
                ('U', Secret::AfterColon, EITHER),
                ('E', Secret::AfterColon, EITHER),
                ('b', Secret::Cookies, EITHER),
            ],
        )
    },
    Program {
        harmless: &["password"],
        ..Program::new(
            &[
                "mysql",
                "mysqldump",
                "mysqladmin",
                "mysqlimport",
                "mysqlshow",
                "mysqlcheck",
                "mysqlbinlog",
                "mysqlslap",
                "mysqlsh",
                "mysqlpump",
                "mariadb",
                "mariadb-dump",
                "mariadb-admin",
                "mariadb-import",
                "mariadb-show",
                "mariadb-check",
                "mariadb-binlog",
                "mariadb-slap",
                "mycli",
            ],
            &[('p', Secret::Whole, Place::Same)],
        )
    },
    // Their option only makes them ask.
    Program {
        harmless: &["password"],
        ..Program::new(
            &[
                "psql",
                "pg_dump",
                "pg_dumpall",
                "pg_restore",
                "pg_basebackup",
                "createdb",
                "dropdb",
                "createuser",
                "dropuser",
                "vacuumdb",
                "reindexdb",
            ],
            &[],
        )
    },
    Program { flags: "v", is_prefix: true, ..Program::new(&["sshpass"], &[('p', Secret::Whole, EITHER)]) },
    Program::new(&["redis-cli", "valkey-cli", "keydb-cli"], &[('a', Secret::Whole, Place::Next)]),
    Program::new(
        &[
            "mongo",
            "mongosh",
            "mongodump",
            "mongorestore",
            "mongoexport",
            "mongoimport",
            "mongostat",
            "mongotop",
            "mongofiles",
        ],
        &[('p', Secret::Whole, EITHER)],
    ),
    Program {
        flags: "xZvnMcAC",
        ..Program::new(
            &[
                "ldapsearch",
                "ldapadd",
                "ldapmodify",
                "ldapdelete",
                "ldapmodrdn",
                "ldapcompare",
                "ldapwhoami",
                "ldapexop",
            ],
            &[('w', Secret::Whole, EITHER)],
        )
    },
    Program {
        flags: "xZvnMcCASWe",
        ..Program::new(
            &["ldappasswd"],
            &[('w', Secret::Whole, EITHER), ('s', Secret::Whole, EITHER), ('a', Secret::Whole, EITHER)],
        )
    },
    Program {
        flags: "NkE",
        longs: &[("user", Secret::AfterPercent)],
        ..Program::new(
            &["smbclient", "rpcclient", "smbget", "smbcacls", "net", "nmblookup", "smbtree"],
            &[('U', Secret::AfterPercent, EITHER)],
        )
    },
    Program {
        longs: &[("pass", Secret::Phrase)],
        ..Program::new(&["openssl"], &[('k', Secret::Whole, Place::Next), ('K', Secret::Whole, Place::Next)])
    },
    Program { flags: "9qrjmveo", ..Program::new(&["zip", "zipcloak", "unzip"], &[('P', Secret::Whole, EITHER)]) },
    Program::new(&["7z", "7za", "7zr", "7zz", "rar", "unrar"], &[('p', Secret::Whole, Place::Same)]),
    Program {
        flags: "qy",
        ..Program::new(&["ssh-keygen"], &[('N', Secret::Whole, EITHER), ('P', Secret::Whole, EITHER)])
    },
    Program {
        flags: "dlrRcCN",
        ..Program::new(&["mosquitto_pub", "mosquitto_sub", "mosquitto_rr"], &[('P', Secret::Whole, EITHER)])
    },
    Program { flags: "v", ..Program::new(&["ipmitool"], &[('P', Secret::Whole, EITHER)]) },
    Program::new(
        &[
            "snmpget",
            "snmpwalk",
            "snmpbulkwalk",
            "snmpbulkget",
            "snmpset",
            "snmpgetnext",
            "snmptable",
            "snmptrap",
            "snmpstatus",
        ],
        &[('c', Secret::Whole, EITHER), ('A', Secret::Whole, EITHER), ('X', Secret::Whole, EITHER)],
    ),
    Program {
        flags: "EIe",
        ..Program::new(&["sqlcmd", "bcp", "osql", "tsql", "isql-fb"], &[('P', Secret::Whole, EITHER)])
    },
    Program { has_slashes: true, ..Program::new(&["sqlplus", "sqlldr", "expdp", "impdp", "rman", "sql"], &[]) },
    Program {
        after: Some("login"),
        harmless: &["secret"],
        ..Program::new(
            &[
                "docker",
                "podman",
                "nerdctl",
                "buildah",
                "skopeo",
                "helm",
                "oc",
                "az",
                "cf",
                "crane",
                "oras",
                "docker-compose",
            ],
            &[('p', Secret::Whole, EITHER)],
        )
    },
    Program { flags: "f", ..Program::new(&["http", "https", "xh", "xhs"], &[('a', Secret::AfterColon, EITHER)]) },
    Program { flags: "mMrDNUoLlUR", ..Program::new(&["useradd", "usermod"], &[('p', Secret::Whole, EITHER)]) },
    Program { words: &["password", "wifi-sec.psk", "802-11-wireless-security.psk"], ..Program::new(&["nmcli"], &[]) },
    Program { longs: &[("user", Secret::AfterColon)], ..Program::new(&["etcdctl"], &[]) },
    Program {
        flags: "klqrSdhiv",
        ..Program::new(&["ab"], &[('A', Secret::AfterColon, EITHER), ('P', Secret::AfterColon, EITHER)])
    },
    Program { longs: &[("user", Secret::AfterColon)], ..Program::new(&["lftp"], &[('u', Secret::AfterComma, EITHER)]) },
    // `htpasswd -b FILE USER PASSWORD`, `htpasswd -nb USER PASSWORD`.
    Program { last_with: Some('b'), ..Program::new(&["htpasswd"], &[]) },
    Program { words: &["authtoken", "add-authtoken"], ..Program::new(&["ngrok"], &[]) },
];

/// The same by name: every word of a command is looked up.
static BY_NAME: LazyLock<HashMap<&str, &Program, foldhash::fast::RandomState>> = LazyLock::new(|| {
    let names = |program: &'static Program| program.names.iter().map(move |name| (*name, program));
    PROGRAMS.iter().flat_map(names).collect()
});

/// Returns the program that a word starts, by the last part of its path.
pub(super) fn find(word: &str) -> Option<&'static Program> {
    let name = word.rsplit('/').next().unwrap_or(word);
    BY_NAME.get(name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_program_stands_in_the_table_twice() {
        let mut names: Vec<&str> = PROGRAMS.iter().flat_map(|program| program.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
