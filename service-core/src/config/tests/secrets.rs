//! No message and no debug output contains the value of a secret.

use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::Secret;

#[derive(Deserialize, Debug)]
#[allow(dead_code, reason = "only read")]
struct One<T> {
    value: T,
}

#[derive(Deserialize, Debug)]
#[allow(dead_code, reason = "only read")]
struct Keyed<T> {
    api_key: T,
}

fn fails<T: serde::de::DeserializeOwned + std::fmt::Debug>(given: Given) -> String {
    let message = given.settings::<T>().unwrap_err();
    assert!(!message.contains("hunter2") && !message.contains("12345678"), "{message}");
    message
}

#[test]
fn keys_that_end_like_secrets_are_shown_as_dots() {
    let text = toml("[mail]\napi_key = \"hunter2\"");
    assert_eq!(
        fails::<Keyed<u32>>(text),
        "`api_key` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 4294967295"
    );
    let number = toml("[mail]\napi_key = 42");
    assert_eq!(
        fails::<Keyed<String>>(number),
        "`api_key` of service `mail` (services.toml:2): found •••, expected a string"
    );
    let own_check = toml("[mail]\napi_key = \"hunter2\"");
    assert_eq!(
        fails::<Keyed<std::net::IpAddr>>(own_check),
        "`api_key` of service `mail` (services.toml:2): found •••, expected a value that its type accepts"
    );
    #[derive(Deserialize, Debug)]
    enum Level {}
    let variant = toml("[mail]\napi_key = \"hunter2\"");
    assert_eq!(
        fails::<Keyed<Level>>(variant),
        "`api_key` of service `mail` (services.toml:2): found •••, expected nothing"
    );
    let nested = toml("[mail.api_key]\nuser = \"hunter2\"");
    assert!(fails::<Keyed<std::collections::HashMap<String, u32>>>(nested).contains("found •••"));
    for key in ["token", "API_TOKEN", "smtpPassword", "secret", "key", "client_secret"] {
        assert!(crate::config::secrets::is_secret(key), "{key}");
    }
    assert!(!crate::config::secrets::is_secret("keyboard"));
}

#[test]
fn a_variable_with_a_secrets_name_is_shown_as_dots_whatever_the_key() {
    let given = toml("[mail]\nvalue = \"${SMTP_PASSWORD}\"").env([("SMTP_PASSWORD", "hunter2")]);
    assert_eq!(
        fails::<One<u32>>(given),
        "`value` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 4294967295"
    );
}

#[test]
fn a_secret_field_is_shown_as_dots_whatever_its_key() {
    let expected = "`value` of service `mail` (services.toml:2): found •••, expected ";
    let given = || toml("[mail]\nvalue = \"hunter2\"");
    assert_eq!(fails::<One<Secret<u32>>>(given()), format!("{expected}a whole number from 0 to 4294967295"));
    assert_eq!(fails::<One<Option<Secret<u32>>>>(given()), format!("{expected}a whole number from 0 to 4294967295"));
    assert_eq!(fails::<One<Secret<Vec<u32>>>>(given()), format!("{expected}a list"));
    assert_eq!(fails::<One<Secret<std::net::IpAddr>>>(given()), format!("{expected}a value that its type accepts"));
    assert_eq!(
        fails::<One<Vec<Secret<u32>>>>(toml("[mail]\nvalue = [1, \"hunter2\"]")),
        "`value[1]` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 4294967295"
    );
    assert_eq!(
        fails::<One<Secret<One<u32>>>>(toml("[mail.value]\nvalue = \"hunter2\"")),
        "`value.value` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 4294967295"
    );
    assert_eq!(
        fails::<One<Secret<u32>>>(env([("SERVICES__MAIL__VALUE", "hunter2")])),
        "`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): found •••, expected a whole number from 0 to 4294967295"
    );
}

#[test]
fn an_error_after_a_swallowed_one_of_a_secret_has_its_own_place() {
    fn lenient<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
        Ok(Secret::<u32>::deserialize(d).ok().map(Secret::into_inner))
    }
    #[derive(Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Two {
        #[serde(deserialize_with = "lenient")]
        a: Option<u32>,
        b: u32,
    }
    let message = fails::<Two>(toml("[mail]\na = \"hunter2\"\nb = \"x\""));
    assert!(message.starts_with("`b` of service `mail` (services.toml:3): found \"x\""), "{message}");
}

#[test]
fn errors_about_buffered_values_are_cleaned() {
    #[derive(Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Flat<T> {
        #[serde(flatten)]
        inner: T,
    }
    let text = || toml("[mail]\napi_key = \"hunter2\"");
    assert_eq!(
        fails::<Flat<Keyed<u32>>>(text()),
        "`api_key` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 4294967295"
    );
    let typed = toml("[mail]\nvalue = \"hunter2\"");
    assert_eq!(
        fails::<Flat<One<Secret<u32>>>>(typed),
        "`value` of service `mail` (services.toml:2): found •••, expected a whole number from 0 to 4294967295"
    );
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "Keyed<String>")]
    struct Checked;
    impl TryFrom<Keyed<String>> for Checked {
        type Error = String;
        fn try_from(keyed: Keyed<String>) -> Result<Self, String> {
            Err(format!("`{}` is no key", keyed.api_key))
        }
    }
    assert_eq!(fails::<Checked>(text()), "settings of service `mail`: `•••` is no key");
    assert_eq!(
        fails::<One<Checked>>(toml("[mail.value]\napi_key = \"hunter2\"")),
        "`value` of service `mail` (services.toml:1): `•••` is no key"
    );
}

#[test]
fn a_secret_is_cut_out_as_it_stands_and_as_it_is_quoted() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "One<Secret<String>>")]
    struct Checked;
    impl TryFrom<One<Secret<String>>> for Checked {
        type Error = String;
        fn try_from(one: One<Secret<String>>) -> Result<Self, String> {
            let value = one.value.expose();
            Err(format!("{value} and {value:?} are refused"))
        }
    }
    let given = toml("[mail]\nvalue = 'hunter2 \"the\" second'");
    assert_eq!(fails::<Checked>(given), "settings of service `mail`: ••• and \"•••\" are refused");
}

#[test]
fn passwords_and_secret_parameters_of_urls_are_left_out() {
    for (text, shown) in [
        ("postgres://app:hunter2@db/x", "postgres://app:•••@db/x"),
        ("postgres://app@db:5432/x", "postgres://app@db:5432/x"),
        ("postgres://app:hunter2'hunter2@db/x", "postgres://app:•••@db/x"),
        ("postgres://app:hunter2<hunter2@db/x", "postgres://app:•••@db/x"),
        ("the database: postgres://app:hunter2 hunter2@db/x", "the database: postgres://app:•••@db/x"),
        ("postgres://app:hun@ter2:/hunter2@db:5432/x", "postgres://app:•••@db:5432/x"),
        ("jdbc:postgresql://db/x?user=app&password=hunter2", "jdbc:postgresql://db/x?user=app&password=•••"),
        ("https://h/p?token=hunter2&page=2", "https://h/p?token=•••&page=2"),
        ("https://h/p?page=2&API_KEY=hunter2#hunter2", "https://h/p?page=2&API_KEY=•••"),
        ("https://h/#access_token=hunter2", "https://h/#access_token=•••"),
        ("https://h/p?pass%77ord=hunter2", "https://h/p?pass%77ord=•••"),
        ("https://h/p?client-secret=hunter2;hunter2,x&y=1", "https://h/p?client-secret=•••&y=1"),
        ("https://h/p?password=hunter2 hunter2", "https://h/p?password=•••"),
        ("https://u:hunter2@a/ https://v:hunter2@b/?key=hunter2", "https://u:•••@b/?key=•••"),
        ("host=db user=app password=hunter2", "host=db user=app password=•••"),
        ("host=db password=hunter2 hunter2", "host=db password=•••"),
        ("host=db password='hunter2 'hunter2 x=1", "host=db password=•••"),
        ("{ api_key = 'hunter2', x = 1 }", "{ api_key = •••"),
        ("host=db password='hunter2 hunter2' x=1", "host=db password=•••"),
        ("{ api_key = 'hunter2&hunter2' }", "{ api_key = •••"),
        ("https://h/p?keyboard=us&x=a:b@c", "https://h/p?keyboard=us&x=a:•••@c"),
        ("https://h/p?q=1&token=", "https://h/p?q=1&token="),
        ("no url: a=b", "no url: a=b"),
    ] {
        let given =
            Given { toml: Box::leak(format!("[mail]\nvalue = \"{text}\"").into_boxed_str()), ..Given::default() };
        assert_eq!(
            fails::<One<u32>>(given),
            format!(
                "`value` of service `mail` (services.toml:2): found \"{shown}\", expected a whole number from 0 to 4294967295"
            )
        );
    }
}

#[test]
fn secrets_of_urls_are_left_out_of_messages_of_other_code() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "String")]
    struct Refused;
    impl TryFrom<String> for Refused {
        type Error = String;
        fn try_from(url: String) -> Result<Self, String> {
            Err(format!("{url} has the password {} and no path", url.split([':', '@']).nth(2).unwrap()))
        }
    }
    let given = || toml("[mail]\nvalue = \"postgres://app:hunter2@db?token=hunter2b\"");
    let message = "`value` of service `mail` (services.toml:2): found \"postgres://app:•••@db?token=•••\": \
                   postgres://app:•••@db?token=••• has the password ••• and no path";
    assert_eq!(fails::<One<Refused>>(given()), message);
    #[derive(Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Flat<T> {
        #[serde(flatten)]
        inner: T,
    }
    assert_eq!(fails::<Flat<One<Refused>>>(given()), message);
    // With unusual characters, and as far as other code takes them for the secret.
    for url in [
        "postgres://app:hunter2'hunter2<hunter2 hunter2@db",
        "postgres://app:hunter2@db/x?password=hunter2;hunter2 'hunter2#hunter2",
        "postgres://app:hunter2@db and ops@example.org",
    ] {
        let text = format!("[mail]\nvalue = \"{url}\"");
        fails::<One<Refused>>(Given { toml: text.leak(), ..Given::default() });
    }
    fails::<One<Refused>>(env([("SERVICES__MAIL__VALUE", "{ url = 'x://:', api_key = 'hunter2' }")]));
}

#[test]
fn a_part_of_a_secret_is_left_out_of_messages_of_other_code() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "Keyed<serde_json::Value>")]
    struct Refused;
    impl TryFrom<Keyed<serde_json::Value>> for Refused {
        type Error = String;
        fn try_from(keyed: Keyed<serde_json::Value>) -> Result<Self, String> {
            Err(match &keyed.api_key {
                serde_json::Value::Array(items) => format!("{} is refused", items[0]),
                serde_json::Value::Object(table) => format!("{} is refused", table["a"]),
                other => format!("{} is refused", other.as_str().unwrap_or_default().split(',').next_back().unwrap()),
            })
        }
    }
    for text in ["a,hunter2", "['hunter2', 'b']", "{ a = 'hunter2' }"] {
        fails::<Refused>(env([("SERVICES__MAIL__API_KEY", text)]));
        fails::<One<Refused>>(env([("SERVICES__MAIL__VALUE__API_KEY", text)]));
    }
}

#[test]
fn a_secret_beside_flattened_settings_is_left_out_of_messages_of_other_code() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "Both")]
    struct Refused;
    #[derive(Deserialize, Debug)]
    struct Both {
        value: Secret<String>,
        #[serde(flatten)]
        rest: std::collections::BTreeMap<String, u32>,
    }
    impl TryFrom<Both> for Refused {
        type Error = String;
        fn try_from(both: Both) -> Result<Self, String> {
            Err(format!("{} with {:?} is refused", both.value.expose(), both.rest))
        }
    }
    let message = fails::<Refused>(toml("[mail]\nvalue = \"hunter2\"\ncount = 5"));
    assert!(message.ends_with("••• with {\"count\": 5} is refused"), "{message}");
}

/// Settings with a password in a table.
#[derive(Deserialize, Debug)]
#[allow(dead_code, reason = "only read")]
struct Smtp {
    password: String,
    port: u16,
}

#[test]
fn a_secret_in_a_table_that_is_text_is_shown_as_dots() {
    const WITH_NUMBER: &str = "{ password = 12345678, port = 25 }";
    let found = |key: &str, place: &str| format!("`{key}` of service `mail` ({place}): found •••, expected a string");
    let of_variable = "environment variable SERVICES__MAIL__VALUE";
    assert_eq!(fails::<One<Smtp>>(env([("SERVICES__MAIL__VALUE", WITH_NUMBER)])), found("value.password", of_variable));
    assert_eq!(
        fails::<One<Smtp>>(toml("[mail]\nvalue = \"${SMTP}\"").env([("SMTP", WITH_NUMBER)])),
        found("value.password", "services.toml:2")
    );
    let list = "[{ password = 12345678, port = 25 }]";
    assert_eq!(
        fails::<One<Vec<Smtp>>>(env([("SERVICES__MAIL__VALUE", list)])),
        found("value[0].password", of_variable)
    );
}

#[test]
fn a_secret_in_a_table_that_is_text_is_left_out_of_messages_of_other_code() {
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "Smtp")]
    struct Refused;
    impl TryFrom<Smtp> for Refused {
        type Error = String;
        fn try_from(smtp: Smtp) -> Result<Self, String> {
            Err(format!("{} is refused", smtp.password))
        }
    }
    for text in [
        r#"{ password = "a\"hunter2", port = 25 }"#,
        r#"{ password = "\u0068unter2", port = 25 }"#,
        "{ password = '''hunter2''', port = 25 }",
    ] {
        let message = fails::<One<Refused>>(env([("SERVICES__MAIL__VALUE", text)]));
        assert!(message.ends_with("••• is refused"), "{message}");
    }
}

#[test]
fn a_secret_in_json_is_shown_as_dots() {
    for json in [
        r#"{"password":"hunter2","port":25}"#,
        r#"{ "smtp": { "password" : "hunter2" } }"#,
        r#"[{"port": 25, "api_key": "a\"hunter2"}]"#,
    ] {
        let message = fails::<One<Smtp>>(env([("SERVICES__MAIL__VALUE", json)]));
        assert!(message.contains("•••"), "{message}");
    }
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "String")]
    struct Refused;
    impl TryFrom<String> for Refused {
        type Error = String;
        fn try_from(json: String) -> Result<Self, String> {
            let smtp: serde_json::Value = serde_json::from_str(&json).unwrap();
            Err(format!("{} is refused", smtp["password"]))
        }
    }
    for json in [r#"{"password":"hunter2"}"#, r#"{"password":"a\"hunter2"}"#, r#"{"password":12345678}"#] {
        fails::<One<Refused>>(env([("SERVICES__MAIL__VALUE", json)]));
    }
}

#[test]
fn what_is_no_name_of_a_variable_is_not_shown() {
    let unnamed = "cannot be read: its content is not the name of a variable (`$${` stands for `${` itself)";
    let given = toml("[mail]\napi_key = \"${hunter2 !}\"");
    assert_eq!(
        fails::<Keyed<String>>(given),
        format!("`api_key` of service `mail` (services.toml:2): `${{…}}` {unnamed}")
    );
    let given = toml("[mail]\napi_key = \"5${hunter2\"");
    assert_eq!(
        fails::<Keyed<String>>(given),
        "`api_key` of service `mail` (services.toml:2): `${…}` cannot be read: its `}` is missing (`$${` stands for `${` itself)"
    );
    let given = toml("[mail]\ninterval = \"${hunter2 !}\"");
    assert!(!given.errors().contains("hunter2"));
}

#[test]
fn options_in_code_do_not_show_secrets() {
    let options = crate::ServiceOptions::new()
        .setting("smtp.password", "hunter2")
        .setting("api_key.user", "hunter2")
        .setting("url", "http://u:hunter2@h");
    let shown = format!("{options:?}");
    assert!(shown.contains("smtp.password") && !shown.contains("hunter2"), "{shown}");
}

#[test]
#[cfg_attr(not(feature = "cron"), ignore = "needs the feature cron")]
fn an_option_that_read_a_secret_does_not_show_it() {
    let given = toml("[mail]\ninterval = \"${ADMIN_TOKEN}\"").env([("ADMIN_TOKEN", "hunter2")]);
    let message = given.errors();
    assert!(message.contains("found •••") && !message.contains("hunter2"), "{message}");
    let given = toml("[mail]\ncron = \"${ADMIN_TOKEN}\"").env([("ADMIN_TOKEN", "hunter2 hunter3")]);
    let message = given.errors();
    assert!(message.contains("found •••, expected a cron expression") && !message.contains("unter"), "{message}");
    let given = toml("[mail]\ncron = \"${ADMIN_TOKEN}\"").env([("ADMIN_TOKEN", "0 3 * * *")]);
    let resolved = given.resolve(&[]).unwrap();
    assert_eq!(resolved.explain(&resolved.options)[0].value, "•••");
    let given = toml("[mail]\nneeds = [\"mail\", \"${BROKER_KEY}\"]").env([("BROKER_KEY", "hunter2")]);
    let resolved = given.resolve(&[]).unwrap();
    let explained = resolved.explain(&resolved.options);
    let needs = explained.iter().find(|option| option.key == "needs").unwrap();
    assert!(needs.value.contains("•••") && !needs.value.contains("hunter2"), "{}", needs.value);
}

#[test]
fn debug_output_holds_no_setting() {
    let resolved = toml("[mail]\napi_key = \"hunter2\"\nvalue = \"hunter2\"").resolve(&[]).unwrap();
    let text = format!("{resolved:?} {:?}", SettingValue::from("hunter2"));
    assert!(text.contains("api_key") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_secret_shows_dots_and_gives_its_value_when_asked() {
    let secret = Secret::new("hunter2".to_owned());
    assert_eq!(format!("{secret} {secret:?}"), "••• •••");
    assert_eq!(serde_json::to_string(&secret).unwrap(), "\"•••\"");
    assert_eq!(secret.expose(), "hunter2");
    assert_eq!(Secret::<u32>::default(), Secret::new(0));
}

#[test]
fn a_secret_is_read_from_any_format_and_never_quoted() {
    assert_eq!(serde_json::from_str::<Secret<u32>>("5").unwrap(), Secret::new(5));
    assert_eq!(serde_json::from_str::<Secret<Option<u32>>>("null").unwrap(), Secret::new(None));
    assert_eq!(serde_json::from_str::<Secret<Vec<u32>>>("[1]").unwrap(), Secret::new(vec![1]));
    let error = serde_json::from_str::<Secret<u32>>("\"hunter2\"").unwrap_err().to_string();
    assert_eq!(error, "the value of a secret does not fit its type");
    type Text<'a> = serde::de::value::StrDeserializer<'a, serde::de::value::Error>;
    assert_eq!(Secret::<String>::deserialize(Text::new("hunter2")).unwrap().expose(), "hunter2");
    let error = Secret::<u32>::deserialize(Text::new("hunter2")).unwrap_err().to_string();
    assert_eq!(error, "the value of a secret does not fit its type");
    assert_eq!(
        toml("[mail]\nvalue = \"5m\"").settings::<One<Secret<Duration>>>().unwrap().value.expose().as_secs(),
        300
    );
}
