//! Command lines as people type them, with what may be told of them.

use proptest::prelude::*;

use super::*;

/// Between two arguments of a line.
const NEXT: &str = " ¦ ";

/// What is run, with ` ¦ ` between two arguments, and what is told; none: the same.
const LINES: &[(&str, Option<&str>)] = &[
    // Options by name.
    ("app ¦ --password ¦ hunter2 ¦ --verbose", Some("app --password *** --verbose")),
    ("app ¦ --password=hunter2", Some("app --password=***")),
    ("app ¦ --password ¦ two words ¦ x", Some("app --password *** x")),
    ("app ¦ --password=two words=a", Some("app --password=***")),
    ("app ¦ --db-pass ¦ x ¦ --dbPass=y", Some("app --db-pass *** --dbPass=***")),
    ("app ¦ --token ¦ abc", Some("app --token ***")),
    ("app ¦ -token ¦ abc", Some("app -token ***")),
    ("app ¦ --api-key=abc ¦ --client-secret ¦ def", Some("app --api-key=*** --client-secret ***")),
    (
        "kubeadm ¦ join ¦ 10.0.0.1:6443 ¦ --token ¦ abcdef.0123456789abcdef ¦ --discovery-token-ca-cert-hash ¦ sha256:1234",
        Some("kubeadm join 10.0.0.1:6443 --token *** --discovery-token-ca-cert-hash sha256:1234"),
    ),
    (
        "java ¦ -Djavax.net.ssl.trustStorePassword=changeit ¦ -jar ¦ a.jar",
        Some("java -Djavax.net.ssl.trustStorePassword=*** -jar a.jar"),
    ),
    ("redis-server ¦ --requirepass ¦ s3cret ¦ --port ¦ 6379", Some("redis-server --requirepass *** --port 6379")),
    ("tailscale ¦ up ¦ --authkey=file:/run/key", Some("tailscale up --authkey=***")),
    (
        "aws ¦ configure ¦ set ¦ aws_secret_access_key ¦ wJalrXUtnFEMI/K7MDENG ¦ --profile ¦ x",
        Some("aws configure set aws_secret_access_key *** --profile x"),
    ),
    (
        "npm ¦ config ¦ set ¦ //registry.example/:_authToken ¦ abc",
        Some("npm config set //registry.example/:_authToken ***"),
    ),
    (
        "kubectl ¦ create ¦ secret ¦ generic ¦ db ¦ --from-literal=password=a,b c",
        Some("kubectl create secret generic db --from-literal=password=***"),
    ),
    ("gcc ¦ -DAPI_TOKEN=\"abc\" ¦ x.c", Some("gcc -DAPI_TOKEN=\"***\" x.c")),
    // Options of one letter, by program.
    ("curl ¦ -u ¦ alice:s3cret ¦ https://h/", Some("curl -u alice:*** https://h/")),
    ("curl ¦ -sSfu ¦ alice:s3:cret ¦ https://h/", Some("curl -sSfu alice:*** https://h/")),
    ("curl ¦ -ualice:s3cret ¦ https://h/", Some("curl -ualice:*** https://h/")),
    ("curl ¦ --user=alice:s3cret ¦ --proxy-user ¦ p:q", Some("curl --user=alice:*** --proxy-user p:***")),
    ("mysql ¦ -uroot ¦ -ps3cret ¦ -h ¦ db", Some("mysql -uroot -p*** -h db")),
    ("sudo ¦ /usr/bin/mysqldump ¦ -ppassword ¦ shop", Some("sudo /usr/bin/mysqldump -p*** shop")),
    ("sshpass ¦ -p ¦ s3cret ¦ ssh ¦ -p ¦ 2222 ¦ host", Some("sshpass -p *** ssh -p 2222 host")),
    ("sshpass ¦ -ps3cret ¦ ssh ¦ host", Some("sshpass -p*** ssh host")),
    ("redis-cli ¦ -h ¦ r ¦ -a ¦ s3cret ¦ ping", Some("redis-cli -h r -a *** ping")),
    ("mongosh ¦ -u ¦ a ¦ -p ¦ s3cret", Some("mongosh -u a -p ***")),
    ("ldapsearch ¦ -x ¦ -D ¦ cn=admin ¦ -w ¦ s3cret ¦ -b ¦ dc=x", Some("ldapsearch -x -D cn=admin -w *** -b dc=x")),
    ("smbclient ¦ //srv/share ¦ -U ¦ alice%s3cret", Some("smbclient //srv/share -U alice%***")),
    (
        "mount ¦ -t ¦ cifs ¦ //s/x ¦ /mnt ¦ -o ¦ username=a,password=b,uid=0",
        Some("mount -t cifs //s/x /mnt -o username=a,password=***,uid=0"),
    ),
    ("openssl ¦ enc ¦ -aes-256-cbc ¦ -k ¦ s3cret ¦ -in ¦ f", Some("openssl enc -aes-256-cbc -k *** -in f")),
    ("openssl ¦ rsa ¦ -passin ¦ pass:s3cret ¦ -in ¦ f", Some("openssl rsa -passin *** -in f")),
    ("zip ¦ -rP ¦ s3cret ¦ a.zip ¦ d", Some("zip -rP *** a.zip d")),
    ("7z ¦ a ¦ -ps3cret ¦ a.7z", Some("7z a -p*** a.7z")),
    ("ssh-keygen ¦ -t ¦ ed25519 ¦ -N ¦ s3cret ¦ -f ¦ k", Some("ssh-keygen -t ed25519 -N *** -f k")),
    ("snmpwalk ¦ -v2c ¦ -c ¦ public ¦ host", Some("snmpwalk -v2c -c *** host")),
    ("sqlplus ¦ -S ¦ scott/tiger@db ¦ @/tmp/a.sql", Some("sqlplus -S scott/***@db @/tmp/a.sql")),
    ("docker ¦ login ¦ -u ¦ a ¦ -p ¦ s3cret ¦ hub.example", Some("docker login -u a -p *** hub.example")),
    ("http ¦ -a ¦ alice:s3cret ¦ https://h/ ¦ X-Api-Key:abc", Some("http -a alice:*** https://h/ X-Api-Key:***")),
    ("htpasswd ¦ -nbB ¦ admin ¦ s3cret", Some("htpasswd -nbB admin ***")),
    ("nmcli ¦ dev ¦ wifi ¦ connect ¦ home ¦ password ¦ s3cret", Some("nmcli dev wifi connect home password ***")),
    // Variables, scripts.
    ("env ¦ PGPASSWORD=two words ¦ psql ¦ -h ¦ db", Some("env PGPASSWORD=*** psql -h db")),
    ("sh ¦ -c ¦ PGPASSWORD=s3cret psql -h db -c 'select 1'", Some("sh -c PGPASSWORD=*** psql -h db -c 'select 1'")),
    (
        "bash ¦ -lc ¦ export AWS_SECRET_ACCESS_KEY='a b'; aws s3 ls",
        Some("bash -lc export AWS_SECRET_ACCESS_KEY='***'; aws s3 ls"),
    ),
    ("sh ¦ -c ¦ mysql -p's3 cret' shop | gzip", Some("sh -c mysql -p*** shop | gzip")),
    ("sh ¦ -c ¦ MYSQL_PWD=\"$PW\" mysql --password=$PW", None),
    ("ssh ¦ host ¦ mysql -ps3cret shop", Some("ssh host mysql -p*** shop")),
    (
        "docker ¦ run ¦ -e ¦ POSTGRES_PASSWORD=s3cret ¦ -p ¦ 5432:5432 ¦ postgres",
        Some("docker run -e POSTGRES_PASSWORD=*** -p 5432:5432 postgres"),
    ),
    ("podman ¦ run ¦ --env=DB_PASS=s3cret ¦ x", Some("podman run --env=DB_PASS=*** x")),
    ("psql ¦ host=db user=a password=s3cret dbname=x", Some("psql host=db user=a password=*** dbname=x")),
    ("psql ¦ password='a b' host=db", Some("psql password='***' host=db")),
    // Headers.
    ("curl ¦ -H ¦ Authorization: Bearer abc.def ¦ https://h/", Some("curl -H Authorization: Bearer *** https://h/")),
    ("curl ¦ -H ¦ authorization: abcdef ¦ https://h/", Some("curl -H authorization: *** https://h/")),
    ("curl ¦ -HX-Api-Key: abc ¦ https://h/", Some("curl -HX-Api-Key: *** https://h/")),
    ("curl ¦ --header=PRIVATE-TOKEN: abc ¦ https://h/", Some("curl --header=PRIVATE-TOKEN: *** https://h/")),
    ("curl ¦ -H ¦ Cookie: a=b; session=c ¦ https://h/", Some("curl -H Cookie: *** https://h/")),
    (
        "sh ¦ -c ¦ curl -H \"Authorization: Basic YTpi\" https://h/",
        Some("sh -c curl -H \"Authorization: Basic ***\" https://h/"),
    ),
    (
        "git ¦ -c ¦ http.extraheader=AUTHORIZATION: basic YTpi ¦ fetch",
        Some("git -c http.extraheader=AUTHORIZATION: basic *** fetch"),
    ),
    (
        "curl ¦ -d ¦ {\"user\":\"a\",\"password\":\"b \\\"c\",\"n\":1} ¦ h",
        Some("curl -d {\"user\":\"a\",\"password\":\"***\",\"n\":1} h"),
    ),
    ("curl ¦ -d ¦ password=x&user=y ¦ h", Some("curl -d password=***&user=y h")),
    // Addresses.
    ("git ¦ clone ¦ https://alice:s3cret@git.example/r.git", Some("git clone https://alice:***@git.example/r.git")),
    ("psql ¦ postgres://app:p/w@d@db/shop", Some("psql postgres://app:***@db/shop")),
    ("redis-cli ¦ -u ¦ redis://:s3cret@r:6379/0", Some("redis-cli -u redis://:***@r:6379/0")),
    ("git ¦ fetch ¦ https://0123456789abcdef0123@git.example/r", Some("git fetch https://***@git.example/r")),
    ("wget ¦ https://s.example/f?sv=1&sig=abc%3D&x=1", Some("wget https://s.example/f?sv=1&sig=***&x=1")),
    (
        "java ¦ -jar ¦ a.jar ¦ jdbc:mysql://db/x?user=a&password=b&ssl=1",
        Some("java -jar a.jar jdbc:mysql://db/x?user=a&password=***&ssl=1"),
    ),
    // By form.
    ("aws ¦ AKIAIOSFODNN7EXAMPLE ¦ x", Some("aws *** x")),
    ("gh ¦ api ¦ ghp_0123456789abcdef0123456789abcdef0123", Some("gh api ***")),
    ("x ¦ glpat-0123456789abcdefghij,xoxb-1234-5678-abcd", Some("x ***,***")),
    ("x ¦ AIzaSyA0123456789abcdefghijklmnopqrstuv", Some("x ***")),
    ("x ¦ eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", Some("x ***")),
    ("x ¦ sk_live_0123456789abcdef", Some("x ***")),
    ("x ¦ -----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- ¦ y", Some("x *** y")),
    // Titles, which have no arguments.
    (
        "worker: curl -H Authorization: Bearer abc https://h/",
        Some("worker: curl -H Authorization: Bearer *** https://h/"),
    ),
    ("celery worker --broker amqp://a:b@mq// -p 1", Some("celery worker --broker amqp://a:***@mq// -p 1")),
    ("nginx: worker process", None),
    ("postgres: 14/main: app shop 10.0.0.1(5432) idle", None),
    ("sshd: alice [priv]", None),
    // What looks like a secret and is none.
    ("ls ¦ -u ¦ a:b", None),
    ("curl ¦ -u ¦ alice ¦ https://h/", None),
    ("rsync ¦ --password-file ¦ /etc/x ¦ a ¦ b", None),
    ("app ¦ --token-endpoint ¦ https://h/token ¦ --token-ttl=5m", None),
    ("docker ¦ run ¦ -p ¦ 8080:80 ¦ -v ¦ my-token:/run/token ¦ x", None),
    ("docker ¦ login ¦ -u ¦ a ¦ --password-stdin", None),
    ("docker ¦ build ¦ --secret ¦ id=npm,src=/x ¦ .", None),
    ("docker ¦ build ¦ --secret=id=npm,src=/x ¦ .", None),
    ("ssh ¦ -p ¦ 2222 ¦ -o ¦ PasswordAuthentication=no ¦ host", None),
    ("mysql ¦ --password ¦ shop", None),
    ("mysql ¦ -p ¦ shop", None),
    ("psql ¦ --no-password ¦ shop", None),
    ("ansible-playbook ¦ --ask-become-pass ¦ site.yml", None),
    ("ansible ¦ --private-key ¦ /root/.ssh/id ¦ all", None),
    ("curl ¦ https://host:8080/path@x", None),
    ("ssh ¦ git@github.com", None),
    ("chrome ¦ --password-store=basic", None),
    ("kubelet ¦ --anonymous-auth=false ¦ --authentication-token-webhook=true", None),
    ("openssl ¦ rsa ¦ -passin ¦ env:PW ¦ -in ¦ f", None),
    ("sqlplus ¦ / ¦ as ¦ sysdba", None),
    ("env ¦ PWD=/root ¦ x", None),
    ("aws ¦ s3api ¦ list-objects ¦ --starting-token ¦ abc ¦ --max-tokens=5", None),
    ("grep ¦ -r ¦ password: ¦ /etc", Some("grep -r password: ***")),
    ("passwd ¦ root", None),
    ("mosquitto_sub ¦ -p ¦ 1883 ¦ -t ¦ x", None),
    ("app ¦ --password=", None),
    ("app ¦ --password ¦ --verbose", None),
];

fn joined(line: &str) -> Vec<u8> {
    let mut bytes = line.replace(NEXT, "\0").into_bytes();
    bytes.push(0);
    bytes
}

#[test]
fn secrets_of_real_command_lines_are_taken_out() {
    let redactor = Redactor::default();
    let mut wrong = Vec::new();
    for (line, told) in LINES {
        let found = redactor.command_line(&joined(line), false).unwrap();
        let expected = told.map_or_else(|| line.replace(NEXT, " "), str::to_owned);
        if (&found.text, found.is_redacted) != (&expected, told.is_some()) {
            wrong.push(format!("{line}\n  told:     {}\n  expected: {expected}", found.text));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), LINES.len(), wrong.join("\n"));
    let off = Redactor::new(false, &[]).unwrap();
    for (line, _) in LINES {
        assert_eq!(off.command_line(&joined(line), false).unwrap().text, line.replace(NEXT, " "));
    }
}

/// Each cut of a line shows nothing of a secret that the whole line does not show.
#[test]
fn a_cut_shows_no_part_of_a_secret() {
    const SECRET: &str = "Zq9Zq9Zq9Zq9Zq9Zq9Zq9";
    let jwt = format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{SECRET}");
    let redactor = Redactor::default();
    for line in [
        format!("app\0--password\0{SECRET}\0x"),
        format!("app\0--password={SECRET}\0x"),
        format!("mysql\0-p{SECRET}\0x"),
        format!("curl\0-u\0alice:{SECRET}\0x"),
        format!("curl\0-H\0Authorization: Bearer {SECRET}\0x"),
        format!("curl\0-H\0X-Api-Key: {SECRET} {SECRET}\0x"),
        format!("sh\0-c\0PGPASSWORD='{SECRET} {SECRET}' psql -h x\0x"),
        format!("psql\0postgres://app:{SECRET}@db/x\0x"),
        format!("curl\0-d\0{{\"password\":\"{SECRET}\"}}\0x"),
        format!("x\0ghp_{SECRET}{SECRET}\0x"),
        format!("x\0{jwt}\0x"),
        format!("x\0-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\0x"),
        format!("sqlplus\0scott/{SECRET}@db\0x"),
    ] {
        for length in 1..line.len() {
            let told = redactor.command_line(&line.as_bytes()[..length], true).unwrap().text;
            assert!(!told.contains("Zq"), "{length} of {line:?}: {told}");
            assert!(told.ends_with('…'));
        }
        assert!(!redactor.command_line(line.as_bytes(), false).unwrap().text.contains("Zq"), "{line:?}");
    }
}

#[test]
fn patterns_of_the_configuration_are_used_and_checked() {
    let patterns = ["corp-[0-9a-f]{8}", "--pin ([0-9]+)"].map(str::to_owned);
    let redactor = Redactor::new(true, &patterns).unwrap();
    let told = |line: &str, is_cut| redactor.command_line(line.as_bytes(), is_cut).unwrap().text;
    assert_eq!(told("x\0corp-0123abcd\0--pin\x001234\0y", false), "x *** --pin *** y");
    assert_eq!(told("x\0y\0corp-01", true), "x y ***…", "it may be one");
    for (pattern, expected) in [
        ("a(b", "pattern 1 is no regular expression"),
        ("x*", "pattern 1, `x*`, matches an empty text"),
        (r"\w{1000}{1000}", "pattern 1 is no regular expression that can be used"),
    ] {
        let error = Redactor::new(true, &[pattern.to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("redact_patterns in the configuration: ") && error.contains(expected), "{error}");
    }
    let error = Redactor::new(true, &vec!["a".to_owned(); 65]).unwrap_err().to_string();
    assert!(error.ends_with("there are 65; 64 are possible"), "{error}");
}

#[test]
fn a_later_configuration_holds_for_what_is_kept() {
    let first = Redactor::default();
    let kept: CommandLine = first.command_line(b"x\0corp-1\0--token\0a\0", false).unwrap().into();
    assert_eq!(first.current(&kept), ("x corp-1 --token ***".into(), true));
    let later = Redactor::new(true, &["corp-[0-9]".to_owned()]).unwrap().after(&first);
    assert_eq!(later.current(&kept), ("x *** --token ***".into(), true));
    let cut: CommandLine = first.command_line(b"x\0corp-1\0y", true).unwrap().into();
    assert_eq!(later.current(&cut), ("x *** ***…".into(), true));
}

#[test]
fn no_text_takes_long() {
    let redactor = Redactor::default();
    for part in [
        "eyJ-",
        "token=",
        "a://b:c",
        "'",
        "\"",
        "\\\"",
        "--token ",
        "password: ",
        "-----BEGIN PRIVATE KEY-----",
        "xoxb-",
        "://:@",
        "sh -c ",
        "a=b&",
        "=",
        ":",
        "{\"token\":\"",
        "sk-ant-",
        "eyJ.",
        "é=",
        "htpasswd -b ",
        "password=x ",
    ] {
        let text = part.repeat((16 << 10) / part.len());
        let since = std::time::Instant::now();
        redactor.text(&text, true);
        redactor.command_line(text.replace(' ', "\0").as_bytes(), false);
        // About 5 ms where it is slowest, in a debug build; in the square of the length it would be minutes.
        assert!(since.elapsed() < std::time::Duration::from_secs(5), "{part}: {:?}", since.elapsed());
    }
}

/// Pieces that mean something, and others.
fn pieces() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "--password",
        "=",
        " ",
        "\0",
        "curl",
        "-u",
        "a:b",
        "mysql",
        "-p",
        "'",
        "\"",
        "\\",
        "://",
        "@",
        ":",
        "sh",
        "-c",
        "TOKEN=",
        "&",
        ";",
        "…",
        "***",
        "eyJhbGciOi",
        "Authorization:",
        "Bearer ",
        "{\"secret\":",
        "ghp_",
        "é",
        "\u{fffd}",
        "set ",
        "$X",
    ]);
    proptest::collection::vec(prop_oneof![known.prop_map(str::to_owned), any::<char>().prop_map(String::from)], 0..24)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_give_a_bounded_text(bytes: Vec<u8>, is_cut: bool) {
        let redactor = Redactor::default();
        if let Some(told) = redactor.command_line(&bytes, is_cut) {
            prop_assert!(told.text.len() <= 3 * bytes.len() + CUT.len());
        }
    }

    #[test]
    fn what_is_told_is_told_again(text in pieces(), is_cut: bool) {
        let redactor = Redactor::default();
        let once = redactor.text(&text, is_cut);
        prop_assert!(once.text.len() <= 3 * text.len());
        prop_assert_eq!(once.is_redacted, once.text != text);
        let twice = redactor.text(&once.text, is_cut);
        prop_assert_eq!(&twice.text, &once.text);
        prop_assert!(!twice.is_redacted);
        if let Some(told) = redactor.command_line(text.as_bytes(), is_cut) {
            prop_assert!(told.text.len() <= 3 * text.len() + CUT.len());
        }
    }
}
