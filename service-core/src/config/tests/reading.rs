//! Own settings into their type.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::config::layers::Scope;

#[derive(Deserialize, Debug, PartialEq, Default)]
#[serde(default)]
struct All {
    count: u32,
    big: u64,
    ratio: f64,
    flag: bool,
    name: Option<String>,
    letter: Option<char>,
    list: Vec<u32>,
    words: Vec<String>,
    pair: Option<(u8, String)>,
    level: Option<Level>,
    every: Duration,
    smtp: Smtp,
    map: BTreeMap<u16, String>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Low,
    High,
    Custom(u8),
}

#[derive(Deserialize, Debug, PartialEq, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Smtp {
    host_name: String,
    port: u16,
}

#[derive(Deserialize, Debug, PartialEq)]
struct One<T> {
    value: T,
}

fn one<T: serde::de::DeserializeOwned>(given: Given) -> Result<T, String> {
    given.settings::<One<T>>().map(|one| one.value)
}

// `name` is one of the attribute's keys, so the struct above is read under another.
#[derive(Deserialize, Debug, PartialEq)]
struct Outer {
    all: All,
}

#[test]
fn text_of_the_environment_is_converted_to_the_type_of_the_field() {
    let all = env([
        ("SERVICES__MAIL__ALL__COUNT", "10"),
        ("SERVICES__MAIL__ALL__BIG", "18446744073709551615"),
        ("SERVICES__MAIL__ALL__RATIO", "3"),
        ("SERVICES__MAIL__ALL__FLAG", "yes"),
        ("SERVICES__MAIL__ALL__NAME", "007"),
        ("SERVICES__MAIL__ALL__LETTER", "x"),
        ("SERVICES__MAIL__ALL__LIST", "1, 2,3"),
        ("SERVICES__MAIL__ALL__WORDS", "[\"a,b\", \"c\"]"),
        ("SERVICES__MAIL__ALL__PAIR", "7,seven"),
        ("SERVICES__MAIL__ALL__LEVEL", "high"),
        ("SERVICES__MAIL__ALL__EVERY", "5m"),
        ("SERVICES__MAIL__ALL__SMTP__PORT", "25"),
        ("SERVICES__MAIL__ALL__SMTP__HOSTNAME", "example.org"),
        ("SERVICES__MAIL__ALL__MAP", "{ 80 = \"http\" }"),
    ]);
    let expected = All {
        count: 10,
        big: u64::MAX,
        ratio: 3.0,
        flag: true,
        name: Some("007".to_owned()),
        letter: Some('x'),
        list: vec![1, 2, 3],
        words: vec!["a,b".to_owned(), "c".to_owned()],
        pair: Some((7, "seven".to_owned())),
        level: Some(Level::High),
        every: Duration::from_secs(300),
        smtp: Smtp { host_name: "example.org".to_owned(), port: 25 },
        map: BTreeMap::from([(80, "http".to_owned())]),
    };
    assert_eq!(all.settings::<Outer>().unwrap().all, expected);
}

#[test]
fn a_key_with_a_hyphen_is_set_by_a_variable_with_an_underscore() {
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    struct Kebab {
        batch_size: u32,
        relay: Relay,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    enum Relay {
        #[serde(rename_all = "kebab-case")]
        VerySlow { max_size: u32 },
    }
    #[derive(Deserialize, Debug, PartialEq)]
    struct Flat {
        #[serde(flatten)]
        inner: Kebab,
    }
    let relay = ("SERVICES__MAIL__RELAY__VERY_SLOW__MAX_SIZE", "3");
    let expected = |batch_size| Kebab { batch_size, relay: Relay::VerySlow { max_size: 3 } };
    for given in [
        env([("SERVICES__MAIL__BATCH_SIZE", "5"), relay]),
        env([("SERVICES__MAIL__BATCH-SIZE", "5"), relay]),
        toml("[mail]\nbatch-size = 4").env([("SERVICES__MAIL__BATCH_SIZE", "5"), relay]),
        toml("[mail]\nbatch-size = 5\nrelay.very-slow.max-size = 3"),
    ] {
        assert_eq!(given.settings::<Kebab>(), Ok(expected(5)));
        assert_eq!(given.settings::<Flat>().map(|flat| flat.inner), Ok(expected(5)));
    }
    assert_eq!(
        env([relay]).settings::<Kebab>().unwrap_err(),
        missing("batch-size", "mail", "SERVICES__MAIL__BATCH_SIZE")
    );
    // Only in the environment.
    let given = toml("[mail]\nbatch_size = 5\nrelay.very-slow.max-size = 3");
    assert!(given.settings::<Kebab>().unwrap_err().contains("`batch-size` of service `mail` is missing"));
}

#[test]
fn a_variant_with_a_value_is_read_from_one_variable() {
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Fast,
        Limited(u32),
        Every(Duration),
        Between(u8, u8),
        Named { port: u16 },
    }
    let mode = |text| one::<Mode>(env([("SERVICES__MAIL__VALUE", text)]));
    assert_eq!(mode("fast"), Ok(Mode::Fast));
    assert_eq!(mode("{ limited = 5 }"), Ok(Mode::Limited(5)));
    assert_eq!(mode("{ LIMITED = 5 }"), Ok(Mode::Limited(5)));
    assert_eq!(mode("{ every = '5m' }"), Ok(Mode::Every(Duration::from_secs(300))));
    assert_eq!(mode("{ between = [1, 2] }"), Ok(Mode::Between(1, 2)));
    assert_eq!(mode("{ named = { port = 25 } }"), Ok(Mode::Named { port: 25 }));
    assert_eq!(one(env([("SERVICES__MAIL__VALUE", "[{ limited = 5 }]")])), Ok(vec![Mode::Limited(5)]));
    let at = "`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): ";
    for text in ["limited", "between", "named"] {
        let expected = "expected a table with the variant and its value, such as { variant = value }";
        assert_eq!(mode(text), Err(format!("{at}found \"{text}\", {expected}")));
    }
    assert_eq!(
        mode("{ a = 1, b = 2 }"),
        Err(format!("{at}found \"{{ a = 1, b = 2 }}\", expected a string, or a table with one key"))
    );
    assert_eq!(
        mode("{ limited = 'x' }"),
        Err("`value.limited` of service `mail` (environment variable SERVICES__MAIL__VALUE): found \"x\", expected a whole number from 0 to 4294967295".to_owned())
    );
    let text = "[mail]\nvalue = { fast = 5 }";
    assert_eq!(
        one::<Mode>(toml(text)),
        Err("`value.fast` of service `mail` (services.toml:2): found 5, expected an empty table".to_owned())
    );
}

#[test]
fn the_largest_numbers_are_read() {
    assert_eq!(one(env([("SERVICES__MAIL__VALUE", "340282366920938463463374607431768211455")])), Ok(u128::MAX));
    assert_eq!(one(env([("SERVICES__MAIL__VALUE", "-170141183460469231731687303715884105728")])), Ok(i128::MIN));
    assert_eq!(one(env([("SERVICES__MAIL__VALUE", "5")])), Ok(5_u128));
    assert_eq!(one(toml("[mail]\nvalue = 9223372036854775807")), Ok(i128::from(i64::MAX)));
}

#[test]
fn values_of_the_file_keep_their_type() {
    let all = toml(
        "[mail.all]\ncount = 10\nbig = 7\nratio = 3\nflag = true\nname = \"007\"\nletter = \"x\"\nlist = [1, 2, 3]\n\
         words = [\"a\"]\npair = [7, \"seven\"]\nlevel = { custom = 3 }\nevery = 0.5\nsmtp = { hostName = \"h\", port = 25 }\n\
         [mail.all.map]\n80 = \"http\"",
    );
    let all = all.settings::<Outer>().unwrap().all;
    assert_eq!((all.ratio, all.level, all.every), (3.0, Some(Level::Custom(3)), Duration::from_millis(500)));
    assert_eq!((all.smtp.port, all.map[&80].as_str()), (25, "http"));
}

#[test]
fn toml_is_read_in_all_its_forms() {
    assert_eq!(one(toml("[mail]\nvalue = 1_000")), Ok(1000));
    assert_eq!(one(toml("[mail]\nvalue = 0xFF")), Ok(255));
    assert_eq!(one(toml("[mail]\nvalue = 1_0.5e1")), Ok(105.0));
    assert_eq!(one(toml("mail.value = 3")), Ok(3));
    assert_eq!(one(toml("[mail]\r\nvalue = \"\"\"\r\na\"\"\"\r\n")), Ok("a".to_owned()));
    assert_eq!(one(toml("\u{feff}[mail]\nvalue = 2026-11-23T03:10:00Z")), Ok("2026-11-23T03:10:00Z".to_owned()));
    assert_eq!(one::<Vec<One<u8>>>(toml("[[mail.value]]\nvalue = 1\n[[mail.value]]\nvalue = 2")).unwrap().len(), 2);
}

#[test]
fn an_empty_variable_is_none_for_an_option() {
    assert_eq!(one::<Option<u32>>(env([("SERVICES__MAIL__VALUE", "")])), Ok(None));
    assert_eq!(one::<String>(env([("SERVICES__MAIL__VALUE", "")])), Ok(String::new()));
    assert_eq!(one::<Vec<u32>>(env([("SERVICES__MAIL__VALUE", "")])), Ok(vec![]));
}

#[test]
fn variables_inside_strings_are_replaced() {
    let given = toml("[mail]\nvalue = \"${HOST}:${PORT}/$${x}\"").env([("HOST", "h"), ("PORT", "25")]);
    assert_eq!(one(given), Ok("h:25/${x}".to_owned()));
    // A whole one becomes what is asked for, as any text of the environment.
    assert_eq!(one(toml("[mail]\nvalue = \"${N}\"").env([("N", "25")])), Ok(25));
    let list = toml("[mail]\nvalue = [\"${N}\", 3]").env([("N", "25")]);
    assert_eq!(one(list), Ok(vec![25, 3]));
}

#[test]
fn nested_settings_are_merged_key_by_key() {
    let given = toml("[mail.all.smtp]\nhostName = \"file\"\nport = 1").env([("SERVICES__MAIL__ALL__SMTP__PORT", "2")]);
    assert_eq!(given.settings::<Outer>().unwrap().all.smtp, Smtp { host_name: "file".to_owned(), port: 2 });
    let given = given.env([("SERVICES__MAIL__ALL__SMTP__HOSTNAME", "env")]).set("mail.all.smtp.port", 3);
    assert_eq!(given.settings::<Outer>().unwrap().all.smtp, Smtp { host_name: "env".to_owned(), port: 3 });
}

#[test]
fn text_has_its_type_in_the_file_where_any_type_is_accepted() {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Flat {
        #[serde(flatten)]
        rest: HashMap<String, serde_json::Value>,
    }
    let given = env([
        ("SERVICES__MAIL__A", "10"),
        ("SERVICES__MAIL__B", "007"),
        ("SERVICES__MAIL__C", "true"),
        ("SERVICES__MAIL__D", "1.5"),
        ("SERVICES__MAIL__E", "1.50"),
    ]);
    let rest = given.settings::<Flat>().unwrap().rest;
    let expected = serde_json::json!({"a": 10, "b": "007", "c": true, "d": 1.5, "e": "1.50"});
    assert_eq!(serde_json::to_value(rest).unwrap(), expected);
}

#[test]
fn json_of_a_table_and_values_of_code_are_read_too() {
    let sources = toml("").load();
    let rows = [
        sources.row(
            Layer::Table,
            Scope::Service,
            "value",
            serde_json::json!({"port": 25, "hostName": "h"}),
            "service_config row",
        ),
        sources.row(Layer::Override, Scope::Service, "value.port", 26.into(), "operator override"),
    ];
    let resolved = sources.resolve(Target::new("mail", undeclared(), None), &rows).unwrap();
    let read = resolved.settings.get::<One<Smtp>>("mail").unwrap().value;
    assert_eq!(read, Smtp { host_name: "h".to_owned(), port: 26 });
    assert_eq!(one(toml("").set("mail.value", Duration::from_secs(90))), Ok(Duration::from_secs(90)));
    assert_eq!(one(toml("").set("mail.value", ["a", "b"])), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(one(toml("").set("mail.value", None::<u32>)), Ok(None::<u32>));
}

#[test]
fn no_settings_are_required_for_the_unit_type() {
    assert_eq!(toml("[mail]\nx = 1").settings::<()>(), Ok(()));
    assert_eq!(toml("").settings::<Option<One<u32>>>().unwrap_err(), missing("value", "mail", "SERVICES__MAIL__VALUE"));
}

fn missing(key: &str, section: &str, variable: &str) -> String {
    format!(
        "`{key}` of service `mail` is missing: set it in services.toml under [{section}], or in the environment variable {variable}"
    )
}

#[test]
fn a_wrong_setting_names_place_found_and_expected() {
    let at = |n: u32| format!("`value` of service `mail` (services.toml:{n}): ");
    let file = |text: &'static str| toml(text);
    let u32s = "a whole number from 0 to 4294967295";
    assert_eq!(one::<u32>(file("[mail]\nvalue = \"10\"")).unwrap_err(), at(2) + "found \"10\", expected " + u32s);
    assert_eq!(one::<u32>(file("[mail]\nvalue = -1")).unwrap_err(), at(2) + "found -1, expected " + u32s);
    assert_eq!(one::<u32>(file("[mail]\nvalue = 1.5")).unwrap_err(), at(2) + "found 1.5, expected " + u32s);
    assert_eq!(one::<String>(file("[mail]\nvalue = 10")).unwrap_err(), at(2) + "found 10, expected a string");
    assert_eq!(one::<bool>(file("[mail]\nvalue = 1")).unwrap_err(), at(2) + "found 1, expected true or false");
    assert_eq!(
        one::<NonZeroU32>(file("[mail]\nvalue = 0")).unwrap_err(),
        at(2) + "found 0, expected " + u32s + ", not 0"
    );
    assert_eq!(one::<Vec<u32>>(file("[mail]\nvalue = 5")).unwrap_err(), at(2) + "found 5, expected a list");
    assert_eq!(one::<Smtp>(file("[mail]\nvalue = 5")).unwrap_err(), at(2) + "found 5, expected a table");
    assert_eq!(
        one::<Level>(file("[mail]\nvalue = \"lwo\"")).unwrap_err(),
        at(2) + "found \"lwo\", expected \"low\", \"high\" or \"custom\""
    );
    assert_eq!(
        one::<Duration>(file("[mail]\nvalue = \"soon\"")).unwrap_err(),
        at(2)
            + "found \"soon\", expected a time in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\")"
    );
    assert_eq!(
        one::<std::net::IpAddr>(file("[mail]\nvalue = \"here\"")).unwrap_err(),
        at(2) + "found \"here\": invalid IP address syntax"
    );
    assert_eq!(
        one::<u32>(env([("SERVICES__MAIL__VALUE", "ten")])).unwrap_err(),
        format!(
            "`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): found \"ten\", expected {u32s}"
        )
    );
    assert_eq!(
        one::<u32>(file("[mail]\nvalue = \"${N}\"").env([("N", "ten")])).unwrap_err(),
        at(2) + "found \"ten\", expected " + u32s
    );
    assert_eq!(
        one::<u32>(file("[mail]\nvalue = \"${N}\"")).unwrap_err(),
        at(2) + "`${N}` cannot be read: the environment variable is not set"
    );
}

#[test]
fn nested_settings_are_named_by_their_path() {
    assert_eq!(
        one::<Vec<u32>>(toml("[mail]\nvalue = [1,\n  \"x\"]")).unwrap_err(),
        "`value[1]` of service `mail` (services.toml:3): found \"x\", expected a whole number from 0 to 4294967295"
    );
    assert_eq!(
        one::<Smtp>(env([("SERVICES__MAIL__VALUE__PORT", "70000")])).unwrap_err(),
        "`value.port` of service `mail` (environment variable SERVICES__MAIL__VALUE__PORT): found \"70000\", expected a whole number from 0 to 65535"
    );
    assert_eq!(
        one::<Smtp>(toml("[mail.value]\nprot = 5")).unwrap_err(),
        "`value.prot` of service `mail` (services.toml:2): unknown key, did you mean `port`?"
    );
    assert_eq!(
        one::<One<One<u32>>>(toml("[mail.value.value]\nx = 5")).unwrap_err(),
        missing("value.value.value", "mail.value.value", "SERVICES__MAIL__VALUE__VALUE__VALUE")
    );
    assert_eq!(
        one::<Vec<One<u32>>>(toml("[[mail.value]]\nx = 5")).unwrap_err(),
        "`value[0]` of service `mail` (services.toml:1): `value` is missing"
    );
}

#[test]
fn a_types_own_check_is_reported_where_the_value_stands() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "u32")]
    struct Even(#[allow(dead_code, reason = "only made")] u32);
    impl TryFrom<u32> for Even {
        type Error = &'static str;
        fn try_from(n: u32) -> Result<Self, &'static str> {
            if n.is_multiple_of(2) { Ok(Self(n)) } else { Err("it must be even") }
        }
    }
    let message = "`value` of service `mail` (services.toml:2): found 3: it must be even";
    assert_eq!(one::<Even>(toml("[mail]\nvalue = 3")).unwrap_err(), message);
}

#[test]
fn places_of_own_settings_are_listed() {
    let resolved = toml("[mail]\na = 1\nsmtp.port = 2").env([("SERVICES__MAIL__B", "x")]).resolve(&[]).unwrap();
    let places =
        [("a", "services.toml:2"), ("b", "environment variable SERVICES__MAIL__B"), ("smtp.port", "services.toml:3")];
    assert_eq!(resolved.settings.places(), places.map(|(key, place)| (key.to_owned(), place.to_owned())));
}
