//! Values that serde buffers before a type requests them: behind `flatten`, in tagged and in untagged enums. They are
//! read as they are read anywhere else.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::*;
use crate::Secret;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Deserialize, Debug, PartialEq, Clone)]
struct Common {
    account: String,
    hosts: Vec<String>,
    verbose: bool,
    max_age: Duration,
}

fn common() -> Common {
    Common { account: "12345".to_owned(), hosts: vec!["a".to_owned(), "b".to_owned()], verbose: true, max_age: s(300) }
}

const COMMON: [(&str, &str); 4] = [
    ("SERVICES__MAIL__ACCOUNT", "12345"),
    ("SERVICES__MAIL__HOSTS", "a,b"),
    ("SERVICES__MAIL__VERBOSE", "yes"),
    ("SERVICES__MAIL__MAX_AGE", "5m"),
];

#[derive(Deserialize, Debug, PartialEq)]
struct Flat<T> {
    #[serde(flatten)]
    inner: T,
}

#[derive(Deserialize, Debug, PartialEq)]
struct One<T> {
    value: T,
}

/// The setting `value`, directly and behind `flatten`: both must be the same.
fn both<T: DeserializeOwned + std::fmt::Debug + PartialEq>(given: Given) -> Result<T, String> {
    let plain = given.settings::<One<T>>().map(|one| one.value);
    let flat = given.settings::<Flat<One<T>>>().map(|flat| flat.inner.value);
    assert_eq!(flat, plain);
    let nested = given.settings::<Flat<Flat<One<T>>>>().map(|flat| flat.inner.inner.value);
    assert_eq!(nested, plain);
    plain
}

fn variable<T: DeserializeOwned + std::fmt::Debug + PartialEq>(text: &'static str) -> Result<T, String> {
    both(env([("SERVICES__MAIL__VALUE", text)]))
}

fn file<T: DeserializeOwned + std::fmt::Debug + PartialEq>(value: &'static str) -> Result<T, String> {
    both(toml(Box::leak(format!("[mail]\nvalue = {value}").into_boxed_str())))
}

#[test]
fn text_behind_flatten_is_converted_to_the_type_of_the_field() {
    assert_eq!(env(COMMON).settings::<Flat<Common>>().unwrap().inner, common());
    assert_eq!(env(COMMON).settings::<Flat<Flat<Common>>>().unwrap().inner.inner, common());
    #[derive(Deserialize, Debug, PartialEq)]
    struct Two {
        batch_size: u32,
        #[serde(flatten)]
        common: Common,
        #[serde(flatten)]
        rest: BTreeMap<String, serde_json::Value>,
    }
    let given = env(COMMON).env([
        ("SERVICES__MAIL__BATCH_SIZE", "10"),
        ("SERVICES__MAIL__COUNT", "7"),
        ("SERVICES__MAIL__WORD", "007"),
        ("SERVICES__MAIL__SURE", "true"),
    ]);
    let two: Two = given.settings().unwrap();
    assert_eq!((two.batch_size, two.common), (10, common()));
    assert_eq!((&two.rest["count"], &two.rest["word"], &two.rest["sure"]), (&7.into(), &"007".into(), &true.into()));
}

#[test]
fn times_of_the_file_behind_flatten_are_times() {
    for (text, time) in
        [("\"5m\"", s(300)), ("30", s(30)), ("0.5", Duration::from_millis(500)), ("\"1h 30m\"", s(5400))]
    {
        assert_eq!(file(text), Ok(time));
    }
    let text = "[mail]\naccount = \"12345\"\nhosts = [\"a\", \"b\"]\nverbose = true\nmax_age = \"5m\"";
    assert_eq!(toml(text).settings::<Flat<Common>>().unwrap().inner, common());
    // Equal numbers are distinguished.
    let text = "[mail]\nretries = 30\nmax_age = 30\nlimit = 30";
    #[derive(Deserialize, Debug, PartialEq)]
    struct Same {
        retries: u32,
        max_age: Duration,
        limit: f64,
    }
    let same = Same { retries: 30, max_age: s(30), limit: 30.0 };
    assert_eq!(toml(text).settings::<Flat<Same>>().unwrap().inner, same);
    assert_eq!(toml("").set("mail.value", s(90)).settings::<Flat<One<Duration>>>().unwrap().inner.value, s(90));
    assert_eq!(toml("").set("mail.value", s(90)).settings::<Flat<One<String>>>().unwrap().inner.value, "1m 30s");
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Level {
    Low,
    High,
    Custom(u8),
    Between { from: u8, to: u8 },
}

#[derive(Deserialize, Debug, PartialEq)]
struct Port(u16);

#[derive(Deserialize, Debug, PartialEq)]
struct Pair(u8, String);

#[test]
fn every_kind_of_value_is_read_behind_flatten_as_anywhere_else() {
    assert_eq!(variable("10"), Ok(10_u8));
    assert_eq!(variable("-5"), Ok(-5_i8));
    assert_eq!(variable("007"), Ok(7_u32));
    assert_eq!(variable("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(variable("-9223372036854775808"), Ok(i64::MIN));
    assert_eq!(variable("3"), Ok(3.0_f32));
    assert_eq!(variable("1e3"), Ok(1000.0_f64));
    assert_eq!(variable(" 5 "), Ok(5_u16));
    assert_eq!(variable("25"), Ok(NonZeroU16::new(25).unwrap()));
    assert_eq!(variable("7"), Ok('7'));
    assert_eq!(variable("x"), Ok('x'));
    assert_eq!(variable("true"), Ok("true".to_owned()));
    assert_eq!(variable("1.50"), Ok("1.50".to_owned()));
    assert_eq!(variable(""), Ok(String::new()));
    for (text, flag) in [("yes", true), ("1", true), ("on", true), ("true", true), ("0", false), ("NO", false)] {
        assert_eq!(variable(text), Ok(flag));
    }
    assert_eq!(variable("80"), Ok(Port(80)));
    assert_eq!(variable("7,seven"), Ok((7_u8, "seven".to_owned())));
    assert_eq!(variable("7,7"), Ok(Pair(7, "7".to_owned())));
    assert_eq!(variable("1, 2,3"), Ok(vec![1_u32, 2, 3]));
    assert_eq!(variable("5"), Ok(vec![5_u32]));
    assert_eq!(variable("1,2"), Ok(vec!["1".to_owned(), "2".to_owned()]));
    assert_eq!(variable("1,2"), Ok([1.0_f64, 2.0]));
    assert_eq!(variable("[\"a,b\", \"c\"]"), Ok(vec!["a,b".to_owned(), "c".to_owned()]));
    assert_eq!(variable("[[1], [2, 3]]"), Ok(vec![vec![1_u8], vec![2, 3]]));
    assert_eq!(variable("[::1]:80,[::2]:80"), Ok(vec!["[::1]:80".to_owned(), "[::2]:80".to_owned()]));
    assert_eq!(variable("1,,3"), Ok(vec![Some(1_u8), None, Some(3)]));
    assert_eq!(variable("5m,30"), Ok(vec![s(300), s(30)]));
    assert_eq!(variable(""), Ok(Vec::<u32>::new()));
    assert_eq!(variable(""), Ok(None::<u32>));
    assert_eq!(variable(""), Ok(None::<String>));
    assert_eq!(variable(""), Ok(None::<Vec<u32>>));
    assert_eq!(variable("12"), Ok(Some("12".to_owned())));
    assert_eq!(variable("5m"), Ok(Some(s(300))));
    assert_eq!(variable("30"), Ok(s(30)));
    assert_eq!(variable("high"), Ok(Level::High));
    assert_eq!(variable("{ custom = 3 }"), Ok(BTreeMap::from([("custom".to_owned(), 3)])));
    assert_eq!(variable("{ custom = 3 }"), Ok(Level::Custom(3)));
    assert_eq!(variable("[{ custom = 3 }, 'low']"), Ok(vec![Level::Custom(3), Level::Low]));
    assert_eq!(variable("127.0.0.1"), Ok(std::net::Ipv4Addr::LOCALHOST));
    assert_eq!(variable("12345"), Ok(Secret::new("12345".to_owned())));
    assert_eq!(variable("12345"), Ok(Secret::new(12345_u32)));
    assert_eq!(variable("5m"), Ok(Secret::new(Some(s(300)))));
    assert_eq!(variable("a,b"), Ok(Secret::new(vec!["a".to_owned(), "b".to_owned()])));
    assert_eq!(variable("/tmp/12"), Ok(std::path::PathBuf::from("/tmp/12")));
    assert_eq!(file("{ custom = 3 }"), Ok(Level::Custom(3)));
    assert_eq!(file("[1, 2]"), Ok(vec![1_u8, 2]));
    assert_eq!(file("5"), Ok(5.0_f64));
    assert_eq!(file("\"low\""), Ok(Level::Low));
    assert_eq!(both(env([("SERVICES__MAIL__VALUE__CUSTOM", "3")])), Ok(Level::Custom(3)));
    let between = [("SERVICES__MAIL__VALUE__BETWEEN__FROM", "1"), ("SERVICES__MAIL__VALUE__BETWEEN__TO", "2")];
    assert_eq!(both(env(between)), Ok(Level::Between { from: 1, to: 2 }));
}

#[test]
fn maps_behind_flatten_are_read_by_the_type_of_their_values() {
    let given = || env([("SERVICES__MAIL__A", "1"), ("SERVICES__MAIL__B", "2")]);
    let numbers = HashMap::from([("a".to_owned(), 1_u8), ("b".to_owned(), 2)]);
    assert_eq!(given().settings::<Flat<HashMap<String, u8>>>().unwrap().inner, numbers);
    let words = HashMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    assert_eq!(given().settings::<Flat<HashMap<String, String>>>().unwrap().inner, words);
    let times = HashMap::from([("a".to_owned(), s(1)), ("b".to_owned(), s(2))]);
    assert_eq!(given().settings::<Flat<HashMap<String, Duration>>>().unwrap().inner, times);
}

#[test]
fn names_of_variants_have_no_case_either() {
    #[derive(Deserialize, Debug, PartialEq)]
    enum Upper {
        Custom(u8),
        #[serde(rename_all = "camelCase")]
        Between {
            min_limit: u8,
        },
    }
    assert_eq!(both(env([("SERVICES__MAIL__VALUE__CUSTOM", "3")])), Ok(Upper::Custom(3)));
    let between = both(env([("SERVICES__MAIL__VALUE__BETWEEN__MINLIMIT", "3")]));
    assert_eq!(between, Ok(Upper::Between { min_limit: 3 }));
}

#[test]
fn defaults_and_options_of_flattened_structs_work() {
    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default)]
    struct Defaulted {
        account: String,
        retries: u32,
        every: Option<Duration>,
    }
    let given = env([("SERVICES__MAIL__ACCOUNT", "12345"), ("SERVICES__MAIL__EVERY", "5m")]);
    let expected = Defaulted { account: "12345".to_owned(), retries: 0, every: Some(s(300)) };
    assert_eq!(given.settings::<Flat<Defaulted>>().unwrap().inner, expected);
    assert_eq!(given.settings::<Flat<Option<Defaulted>>>().unwrap().inner, Some(expected));
    assert_eq!(env(COMMON).settings::<Flat<Option<Common>>>().unwrap().inner, Some(common()));
    assert_eq!(toml("").settings::<Flat<Option<Common>>>().unwrap().inner, None);
}

#[test]
fn names_of_variables_have_no_case_behind_flatten_either() {
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Camel {
        batch_size: u32,
        host_name: String,
    }
    let given = env([("SERVICES__MAIL__BATCHSIZE", "5"), ("SERVICES__MAIL__HOSTNAME", "7")]);
    let expected = Camel { batch_size: 5, host_name: "7".to_owned() };
    assert_eq!(given.settings::<Flat<Camel>>().unwrap().inner, expected);
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Tagged {
    Full(Common),
    Short { account: u64 },
    None,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(tag = "kind", content = "with", rename_all = "lowercase")]
enum Adjacent {
    Full(Common),
    Port(u16),
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(rename_all = "lowercase")]
enum External {
    Full(Common),
    Short { account: u64 },
}

/// `COMMON` one level deeper.
fn within(table: &str) -> Given {
    let mut given = toml("");
    for (name, value) in COMMON {
        given.env.push((name.replace("MAIL__", &format!("MAIL__{table}__")).leak(), value));
    }
    given
}

#[test]
fn tagged_enums_are_read_as_anything_else() {
    let full = || env(COMMON).env([("SERVICES__MAIL__KIND", "full")]);
    assert_eq!(full().settings::<Tagged>().unwrap(), Tagged::Full(common()));
    assert_eq!(full().settings::<Flat<Tagged>>().unwrap().inner, Tagged::Full(common()));
    let short = env([("SERVICES__MAIL__KIND", "short"), ("SERVICES__MAIL__ACCOUNT", "7")]);
    assert_eq!(short.settings::<Tagged>().unwrap(), Tagged::Short { account: 7 });
    assert_eq!(env([("SERVICES__MAIL__KIND", "none")]).settings::<Flat<Tagged>>().unwrap().inner, Tagged::None);
    let value = || within("VALUE").env([("SERVICES__MAIL__VALUE__KIND", "full")]);
    assert_eq!(both(value()), Ok(Tagged::Full(common())));

    let adjacent = || within("WITH").env([("SERVICES__MAIL__KIND", "full")]);
    assert_eq!(adjacent().settings::<Adjacent>().unwrap(), Adjacent::Full(common()));
    assert_eq!(adjacent().settings::<Flat<Adjacent>>().unwrap().inner, Adjacent::Full(common()));
    let port = env([("SERVICES__MAIL__KIND", "port"), ("SERVICES__MAIL__WITH", "80")]);
    assert_eq!(port.settings::<Adjacent>().unwrap(), Adjacent::Port(80));

    assert_eq!(within("FULL").settings::<External>().unwrap(), External::Full(common()));
    assert_eq!(within("FULL").settings::<Flat<External>>().unwrap().inner, External::Full(common()));

    let text = "[mail]\nkind = \"full\"\naccount = \"12345\"\nhosts = [\"a\", \"b\"]\nverbose = true\nmax_age = \"5m\"";
    assert_eq!(toml(text).settings::<Tagged>().unwrap(), Tagged::Full(common()));
    // Numbers as tags.
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(tag = "version")]
    enum Version {
        #[serde(rename = "1")]
        One { a: u8 },
        #[serde(rename = "2")]
        Two { a: String },
    }
    let two = || env([("SERVICES__MAIL__VERSION", "2"), ("SERVICES__MAIL__A", "5")]);
    assert_eq!(two().settings::<Version>().unwrap(), Version::Two { a: "5".to_owned() });
    assert_eq!(two().settings::<Flat<Version>>().unwrap().inner, Version::Two { a: "5".to_owned() });
    let one = env([("SERVICES__MAIL__VERSION", "1"), ("SERVICES__MAIL__A", "5")]);
    assert_eq!(one.settings::<Flat<Version>>().unwrap().inner, Version::One { a: 5 });
}

macro_rules! untagged {
    ($($name:ident { $($variant:tt)* })*) => { $(
        #[derive(Deserialize, Debug, PartialEq)]
        #[serde(untagged)]
        enum $name { $($variant)* }
    )* };
}

untagged! {
    NumberFirst { Number(u32), Word(String) }
    WordFirst { Word(String), Number(u32) }
    FlagFirst { Flag(bool), Word(String) }
    WordOrFlag { Word(String), Flag(bool) }
    Many { Many(Vec<String>), One(String) }
    TimeFirst { Time(Duration), Word(String) }
    TimeOrNumber { Time(Duration), Number(u32) }
    NumberOrTime { Number(u32), Time(Duration) }
    TimeSecond { Number(u32), Time(Duration), Word(String) }
    TimeThird { Level(Level), Address(std::net::IpAddr), Time(Duration), Word(String) }
    TimeAfterFlag { Flag(bool), Time(Duration), Number(u32) }
    TimeAfterWord { Level(Level), Word(String), Time(Duration) }
    TimeAfterLists { Times(Vec<Duration>), Numbers(Vec<u64>), Named(HashMap<String, Duration>), Time(Duration) }
    Source { Full(Common), Short { account: u64 } }
    ShortFirst { Short { account: u64 }, Full(Common) }
    ById { Word { id: String, x: u8 }, Number { id: u64, x: u8 } }
    TwoWords { Words { x: String, y: String }, Numbers { x: u8, y: u8 } }
}

#[test]
fn an_untagged_enum_is_the_variant_that_the_same_value_in_the_file_would_be() {
    assert_eq!(variable("12345"), Ok(NumberFirst::Number(12345)));
    assert_eq!(variable("many"), Ok(NumberFirst::Word("many".to_owned())));
    assert_eq!(variable("12345"), Ok(WordFirst::Number(12345)));
    assert_eq!(variable("many"), Ok(WordFirst::Word("many".to_owned())));
    assert_eq!(variable("true"), Ok(WordOrFlag::Flag(true)));
    assert_eq!(variable("yes"), Ok(WordOrFlag::Word("yes".to_owned())));
    assert_eq!(variable("yes"), Ok(FlagFirst::Flag(true)));
    assert_eq!(variable("maybe"), Ok(FlagFirst::Word("maybe".to_owned())));
    assert_eq!(variable("a,b"), Ok(Many::Many(vec!["a".to_owned(), "b".to_owned()])));
    assert_eq!(variable("[\"a\", \"b\"]"), Ok(Many::Many(vec!["a".to_owned(), "b".to_owned()])));
    assert_eq!(file("\"a,b\""), Ok(Many::One("a,b".to_owned())));
    assert_eq!(variable("5m"), Ok(TimeFirst::Time(s(300))));
    assert_eq!(variable("soon"), Ok(TimeFirst::Word("soon".to_owned())));
    assert_eq!(file("\"5m\""), Ok(TimeFirst::Time(s(300))));
    assert_eq!(file("\"soon\""), Ok(TimeFirst::Word("soon".to_owned())));
    assert_eq!(variable("30"), Ok(TimeOrNumber::Time(s(30))));
    assert_eq!(variable("30"), Ok(NumberOrTime::Number(30)));
    assert_eq!(file("30"), Ok(NumberOrTime::Number(30)));
    assert_eq!(variable("5m"), Ok(NumberOrTime::Time(s(300))));
    let read = |text: &'static str, quoted: &'static str| {
        let (second, third) = (variable::<TimeSecond>(text), variable::<TimeThird>(text));
        assert_eq!((&second, &third), (&file(quoted), &file(quoted)));
        (second.unwrap(), third.unwrap())
    };
    assert_eq!(read("5m", "'5m'"), (TimeSecond::Time(s(300)), TimeThird::Time(s(300))));
    assert_eq!(read("30", "30"), (TimeSecond::Number(30), TimeThird::Time(s(30))));
    assert_eq!(read("x", "'x'"), (TimeSecond::Word("x".to_owned()), TimeThird::Word("x".to_owned())));
    assert_eq!(read("low", "'low'").1, TimeThird::Level(Level::Low));
    assert_eq!(read("::1", "'::1'").1, TimeThird::Address(std::net::Ipv6Addr::LOCALHOST.into()));
    assert_eq!(file("'5m'"), Ok(TimeAfterLists::Time(s(300))));
    assert_eq!(file("30"), Ok(TimeAfterLists::Time(s(30))));
    assert_eq!(file("['5m', 30]"), Ok(TimeAfterLists::Times(vec![s(300), s(30)])));
    assert_eq!(file("{ a = '5m' }"), Ok(TimeAfterLists::Named(HashMap::from([("a".to_owned(), s(300))]))));
    assert_eq!(file("30"), Ok(TimeAfterFlag::Time(s(30))));
    assert_eq!(file("true"), Ok(TimeAfterFlag::Flag(true)));
    assert_eq!(variable("5m"), Ok(TimeAfterWord::Word("5m".to_owned())));
    assert_eq!(file("'5m'"), Ok(TimeAfterWord::Word("5m".to_owned())));
    let times = Vec::from_iter((0..20).map(|_| TimeThird::Time(s(300))));
    let list = format!("[{}]", ["'5m'"; 20].join(", ")).leak();
    assert_eq!((variable(list), file(list)), (Ok(times), Ok(Vec::from_iter((0..20).map(|_| TimeThird::Time(s(300)))))));
    assert_eq!(toml("").set("mail.value", s(90)).settings::<One<TimeSecond>>().unwrap().value, TimeSecond::Time(s(90)));
    assert_eq!(
        variable("1,x,3"),
        Ok(vec![NumberFirst::Number(1), NumberFirst::Word("x".to_owned()), NumberFirst::Number(3)])
    );
    let id = |id| env([("SERVICES__MAIL__VALUE__ID", id), ("SERVICES__MAIL__VALUE__X", "5")]);
    assert_eq!(both(id("12345")), Ok(ById::Number { id: 12345, x: 5 }));
    assert_eq!(both(id("abc")), Ok(ById::Word { id: "abc".to_owned(), x: 5 }));
    let two = env([("SERVICES__MAIL__VALUE__X", "1"), ("SERVICES__MAIL__VALUE__Y", "2")]);
    assert_eq!(both(two), Ok(TwoWords::Numbers { x: 1, y: 2 }));
}

#[test]
fn of_an_enum_with_a_tag_only_the_variant_of_the_highest_layer_is_read() {
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    enum Mode {
        Limited { max: u32 },
        Rated { rate: u32 },
    }
    #[derive(Deserialize, Debug, PartialEq)]
    struct Plain {
        mode: Mode,
    }
    fn all<T: DeserializeOwned>(given: Given) -> Result<T, String> {
        let resolved = given.resolve(&[])?;
        resolved.settings.get_all("mail").map_err(|error| error.to_string())
    }
    let limited = || toml("[mail.mode]\nkind = \"limited\"\nmax = 5");
    let rated = || limited().env([("SERVICES__MAIL__MODE__KIND", "rated"), ("SERVICES__MAIL__MODE__RATE", "3")]);
    assert_eq!(all(rated()), Ok(Plain { mode: Mode::Rated { rate: 3 } }));
    assert_eq!(all(rated()), Ok(Flat { inner: Plain { mode: Mode::Rated { rate: 3 } } }));
    let inline = limited().env([("SERVICES__MAIL__MODE", "{ kind = \"rated\", rate = 3 }")]);
    assert_eq!(all(inline), Ok(Plain { mode: Mode::Rated { rate: 3 } }));
    let root = toml("[mail]\nkind = \"limited\"\nmax = 5");
    let root = root.env([("SERVICES__MAIL__KIND", "rated"), ("SERVICES__MAIL__RATE", "3")]);
    assert_eq!(all(root), Ok(Mode::Rated { rate: 3 }));
    // A key beside the tag, or above it, is of its variant.
    let error = all::<Plain>(rated().env([("SERVICES__MAIL__MODE__MAX", "6")])).unwrap_err();
    assert!(
        error.starts_with("`mode.max` of service `mail` (environment variable SERVICES__MAIL__MODE__MAX)"),
        "{error}"
    );
    let error = all::<Plain>(limited().env([("SERVICES__MAIL__MODE__RATE", "3")])).unwrap_err();
    assert!(error.starts_with("`mode.rate` of service `mail` (environment variable"), "{error}");
    let error = all::<Plain>(toml("[mail.mode]\nkind = \"rated\"\nrate = 3\nmax = 5")).unwrap_err();
    assert!(error.starts_with("`mode.max` of service `mail` (services.toml:4): unknown key"), "{error}");

    // An enum without a tag is the variant that reads the values of the highest layer.
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(untagged)]
    enum Untagged {
        Limited { max: u32 },
        Rated { rate: u32 },
    }
    #[derive(Deserialize, Debug, PartialEq)]
    struct Untold {
        mode: Untagged,
    }
    let max = || toml("[mail]\nmode.max = 5");
    assert_eq!(all(max()), Ok(Untold { mode: Untagged::Limited { max: 5 } }));
    let rate = Untold { mode: Untagged::Rated { rate: 3 } };
    for variable in [("SERVICES__MAIL__MODE__RATE", "3"), ("SERVICES__MAIL__MODE", "{ rate = 3 }")] {
        assert_eq!(all::<Untold>(max().env([variable])).as_ref(), Ok(&rate), "{variable:?}");
    }
    assert_eq!(all(max().set("mail.mode.rate", 3)), Ok(rate));
    let rate = toml("[mail]\nmode.rate = 3").set("mail.mode.max", 5);
    assert_eq!(all(rate), Ok(Untold { mode: Untagged::Limited { max: 5 } }));
}

#[test]
fn an_untagged_enum_does_not_take_a_variant_that_leaves_values_unread() {
    assert_eq!(env(COMMON).settings::<Source>().unwrap(), Source::Full(common()));
    assert_eq!(env(COMMON).settings::<Flat<Source>>().unwrap().inner, Source::Full(common()));
    assert_eq!(both(within("VALUE")), Ok(Source::Full(common())));
    assert_eq!(env(COMMON).settings::<ShortFirst>().unwrap(), ShortFirst::Full(common()));
    let short = || env([("SERVICES__MAIL__ACCOUNT", "12345")]);
    assert_eq!(short().settings::<Source>().unwrap(), Source::Short { account: 12345 });
    assert_eq!(short().settings::<Flat<ShortFirst>>().unwrap().inner, ShortFirst::Short { account: 12345 });
}

#[test]
fn the_items_and_keys_of_a_text_are_read_as_settings_of_their_own() {
    #[derive(Deserialize, Debug, PartialEq, Clone)]
    struct Timed {
        max_age: Duration,
        verbose: bool,
    }
    #[derive(Deserialize, Debug, PartialEq, Clone)]
    struct Named {
        word: String,
        #[serde(flatten)]
        timed: Timed,
    }
    #[derive(Deserialize, Debug, PartialEq, Clone)]
    #[serde(tag = "kind")]
    enum Kind {
        Timed { max_age: Duration, count: u8 },
        Empty,
    }
    let timed = Kind::Timed { max_age: s(300), count: 5 };
    let text = "[{ kind = 'Timed', count = 5, max_age = '5m' }, { kind = 'Empty' }]";
    assert_eq!(variable(text), Ok(vec![timed.clone(), Kind::Empty]));
    assert_eq!(file(text), Ok(vec![timed.clone(), Kind::Empty]));
    let text = "{ a = { kind = 'Timed', count = 5, max_age = '5m' } }";
    assert_eq!(variable(text), Ok(HashMap::from([("a".to_owned(), timed.clone())])));
    assert_eq!(variable("{ kind = 'Timed', count = 5, max_age = '5m' }"), Ok(timed.clone()));
    assert_eq!(variable("{ kind = 'Timed', count = 5, max_age = '5m' }"), Ok(Some(timed.clone())));
    let named = Named { word: "x".to_owned(), timed: Timed { max_age: s(300), verbose: true } };
    let text = "{ word = 'x', max_age = '5m', verbose = true }";
    assert_eq!(variable(text), Ok(named.clone()));
    assert_eq!(variable(&*format!("[{text}]").leak()), Ok(vec![named.clone()]));
    assert_eq!(variable(&*format!("[[{text}], 7]").leak()), Ok((vec![named.clone()], 7_u8)));
    assert_eq!(variable("5m,x"), Ok(vec![TimeFirst::Time(s(300)), TimeFirst::Word("x".to_owned())]));
    assert_eq!(variable("yes,no"), Ok(vec![FlagFirst::Flag(true), FlagFirst::Flag(false)]));
    assert_eq!(variable("yes,7"), Ok((FlagFirst::Flag(true), 7_u8)));
    // A text that replaces `${…}`.
    let given = toml("[mail]\nvalue = \"${TIMES}\"").env([("TIMES", "5m,x")]);
    assert_eq!(both(given), Ok(vec![TimeFirst::Time(s(300)), TimeFirst::Word("x".to_owned())]));
    assert_eq!(
        variable::<Vec<Kind>>("[{ kind = 'Timed', count = 5, max_age = 'soon' }]"),
        Err(format!(
            "`value[0].max_age` of service `mail` (environment variable SERVICES__MAIL__VALUE): found \"soon\", expected a time in {}",
            crate::config::units::TIME_FORMS
        ))
    );
    assert_eq!(
        variable::<Vec<Kind>>("[{ kind = 'Timd' }]"),
        Err("`value[0].kind` of service `mail` (environment variable SERVICES__MAIL__VALUE): found \"Timd\", expected \"Timed\" or \"Empty\"".to_owned())
    );
}

#[test]
fn a_list_whose_errors_are_dropped_is_read_beside_flattened_settings() {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Settings {
        #[serde(deserialize_with = "lenient")]
        list: Option<Vec<u8>>,
        #[serde(flatten)]
        rest: BTreeMap<String, String>,
    }
    fn lenient<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Vec::deserialize(d).ok())
    }
    let list = |text| env([("SERVICES__MAIL__LIST", text), ("SERVICES__MAIL__A", "b")]).settings::<Settings>();
    assert_eq!(list("1,2").unwrap().list, Some(vec![1, 2]));
    assert_eq!(list("1,x").unwrap().list, None);
}

#[test]
fn values_whose_errors_are_dropped_are_all_read() {
    fn lenient<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u8>, D::Error> {
        Ok(u8::deserialize(d).ok())
    }
    #[derive(Deserialize, Debug, PartialEq)]
    struct Settings {
        #[serde(deserialize_with = "lenient")]
        a: Option<u8>,
        #[serde(deserialize_with = "lenient")]
        b: Option<u8>,
        c: Numbers,
    }
    #[derive(Deserialize, Debug, PartialEq)]
    #[serde(untagged)]
    enum Numbers {
        X { x: u8 },
        Y { y: u8 },
    }
    let text = "[mail]\na = 1\nb = 2\nc.x = 3\nc.y = 4";
    let expected = Settings { a: Some(1), b: Some(2), c: Numbers::X { x: 3 } };
    assert_eq!(toml(text).settings::<Flat<Settings>>().unwrap().inner, expected);
    let unread = toml("[mail]\na = 1\nb = 2\nc.x = 3\nc.y = 4\nother = 5");
    assert_eq!(unread.settings::<Flat<Settings>>().unwrap().inner, expected);
}

#[test]
fn what_is_wrong_behind_flatten_is_named_with_its_key_place_and_expectation() {
    let whole = "a whole number from 0 to 255";
    let at = "`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): ";
    assert_eq!(variable::<u8>("ten"), Err(format!("{at}found \"ten\", expected {whole}")));
    assert_eq!(variable::<u8>("300"), Err(format!("{at}found \"300\", expected {whole}")));
    assert_eq!(variable::<u8>("1.5"), Err(format!("{at}found \"1.5\", expected {whole}")));
    assert_eq!(variable::<u8>(""), Err(format!("{at}found \"\", expected {whole}")));
    assert_eq!(variable::<bool>("maybe"), Err(format!("{at}found \"maybe\", expected true or false")));
    assert_eq!(variable::<Port>("x"), Err(format!("{at}found \"x\", expected a whole number from 0 to 65535")));
    assert_eq!(
        variable::<Duration>("2w"),
        Err(format!(
            "{at}found \"2w\", expected a time in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\")"
        ))
    );
    assert_eq!(
        variable::<Vec<u8>>("1,x"),
        Err(format!(
            "`value[1]` of service `mail` (environment variable SERVICES__MAIL__VALUE): found \"x\", expected {whole}"
        ))
    );
    assert_eq!(
        variable::<Level>("lwo"),
        Err(format!("{at}found \"lwo\", expected \"low\", \"high\", \"custom\" or \"between\""))
    );
    assert_eq!(
        variable::<Level>("custom"),
        Err(format!(
            "{at}found \"custom\", expected a table with the variant and its value, such as {{ variant = value }}"
        ))
    );
    assert_eq!(variable::<std::net::Ipv4Addr>("here"), Err(format!("{at}found \"here\": invalid IPv4 address syntax")));
    assert_eq!(
        variable::<NonZeroU16>("0"),
        Err(format!("{at}found \"0\", expected a whole number from 0 to 65535, not 0"))
    );
    let at = "`value` of service `mail` (services.toml:2): ";
    assert_eq!(file::<u8>("\"10\""), Err(format!("{at}found \"10\", expected {whole}")));
    assert_eq!(file::<u8>("300"), Err(format!("{at}found 300, expected {whole}")));
    assert_eq!(file::<String>("10"), Err(format!("{at}found 10, expected a string")));
    assert_eq!(file::<bool>("\"yes\""), Err(format!("{at}found \"yes\", expected true or false")));
    assert_eq!(file::<Vec<u8>>("5"), Err(format!("{at}found 5, expected a list")));
    assert_eq!(
        file::<Duration>("\"30sec\""),
        Err(format!(
            "{at}found \"30sec\", expected a time in seconds (30, 0.5) or with a unit of ms, s, m, h or d (\"500ms\", \"1h 30m\")"
        ))
    );
}

#[test]
fn a_list_of_a_wrong_length_is_an_error() {
    let given = |text: &'static str| env([("SERVICES__MAIL__VALUE", text), ("SERVICES__MAIL__AT", "1,2,3")]);
    let at = "`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): ";
    let two = "expected a list of 2 items";
    assert_eq!(both::<[u8; 2]>(given("1,2,3")), Err(format!("{at}found \"1,2,3\", {two}")));
    assert_eq!(both::<[u8; 2]>(given("1")), Err(format!("{at}found \"1\", {two}")));
    assert_eq!(both::<(u8, String)>(given("[1, 'b', 3]")), Err(format!("{at}found \"[1, 'b', 3]\", {two}")));
    assert_eq!(both::<(u8,)>(given("1,2")), Err(format!("{at}found \"1,2\", expected a list of 1 item")));
    assert_eq!(both::<Option<[u8; 2]>>(given("1,2,3")), Err(format!("{at}found \"1,2,3\", {two}")));
    assert_eq!(
        both::<Vec<[u8; 2]>>(given("[[1, 2], [1, 2, 3]]")),
        Err("`value[1]` of service `mail` (environment variable SERVICES__MAIL__VALUE): found 3 items, expected a list of 2 items".to_owned())
    );
    let at = "`value` of service `mail` (services.toml:2): ";
    assert_eq!(file::<[u8; 2]>("[1, 2, 3, 4]"), Err(format!("{at}found 4 items, {two}")));
    assert_eq!(file::<[u8; 2]>("[1]"), Err(format!("{at}found 1 item, {two}")));
    assert_eq!(file::<(u8, String)>("[1, 'b', 3]"), Err(format!("{at}found 3 items, {two}")));
    assert_eq!(file::<Pair>("[1, 'b', 3]"), Err(format!("{at}found 3 items, {two}")));
    assert_eq!(file("[1, 'b']"), Ok(Pair(1, "b".to_owned())));
    assert_eq!(file("[1, 2]"), Ok([1_u8, 2]));
}

#[test]
fn the_right_one_of_several_values_is_named() {
    let given = env(COMMON).env([("SERVICES__MAIL__VERBOSE", "maybe")]);
    assert_eq!(
        given.settings::<Flat<Common>>().unwrap_err(),
        "`verbose` of service `mail` (environment variable SERVICES__MAIL__VERBOSE): found \"maybe\", expected true or false"
    );
    #[derive(Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Several {
        a: std::net::Ipv4Addr,
        b: std::net::Ipv4Addr,
        c: std::net::Ipv4Addr,
    }
    let text = "[mail]\na = \"127.0.0.1\"\nb = \"here\"\nc = \"there\"";
    assert_eq!(
        toml(text).settings::<Flat<Several>>().unwrap_err(),
        "`b` of service `mail` (services.toml:3): found \"here\": invalid IPv4 address syntax"
    );
    let full = env(COMMON).env([("SERVICES__MAIL__KIND", "full"), ("SERVICES__MAIL__MAX_AGE", "soon")]);
    let message = full.settings::<Tagged>().unwrap_err();
    assert!(
        message
            .starts_with("`max_age` of service `mail` (environment variable SERVICES__MAIL__MAX_AGE): found \"soon\"")
    );
    let unknown = env(COMMON).env([("SERVICES__MAIL__KIND", "ful")]);
    assert_eq!(
        unknown.settings::<Flat<Tagged>>().unwrap_err(),
        "`kind` of service `mail` (environment variable SERVICES__MAIL__KIND): found \"ful\", expected \"full\", \"short\" or \"none\""
    );
    let neither = env([("SERVICES__MAIL__VALUE", "-5")]);
    let message = neither.settings::<One<TimeOrNumber>>().unwrap_err();
    assert_eq!(
        message,
        "`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): found \"-5\": data did not match any variant of untagged enum TimeOrNumber"
    );
}

#[test]
fn a_key_of_a_wrong_type_is_named_with_its_map() {
    #[derive(Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Settings {
        hosts: Vec<String>,
        ids: HashMap<u8, String>,
    }
    let given = toml("[mail]\nhosts = ['a', 'b', 'c']\nids = { 7 = 'x' }");
    assert_eq!(given.settings::<Settings>().unwrap().ids[&7], "x");
    assert_eq!(
        given.settings::<Flat<Settings>>().unwrap_err(),
        "`ids` of service `mail` (services.toml:3): found string \"7\", expected a whole number from 0 to 255"
    );
    let given = toml("[mail]\nhosts = ['a', 'b']\nids = { 7 = 'x' }");
    assert_eq!(
        given.settings::<Flat<Settings>>().unwrap_err(),
        "`ids` of service `mail` (services.toml:3): found string \"7\", expected a whole number from 0 to 255"
    );
    let given = toml("[mail]\nhosts = ['a', 'b']\nb = { b = 'x' }\nids = 'b'");
    assert_eq!(
        given.settings::<Flat<Settings>>().unwrap_err(),
        "`ids` of service `mail` (services.toml:4): found \"b\", expected a table"
    );
}

#[test]
fn what_is_missing_behind_flatten_is_named_with_its_table() {
    let missing = |key: &str, section: &str, variable: &str| {
        format!(
            "`{key}` of service `mail` is missing: set it in services.toml under [{section}], or in the environment variable {variable}"
        )
    };
    let given = env([COMMON[0], COMMON[1], COMMON[3]]);
    assert_eq!(given.settings::<Flat<Common>>().unwrap_err(), missing("verbose", "mail", "SERVICES__MAIL__VERBOSE"));
    #[derive(Deserialize, Debug)]
    #[allow(dead_code, reason = "only read")]
    struct Outer {
        smtp: Smtp,
        zone: u8,
    }
    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Smtp {
        host: String,
        port: u16,
    }
    let given = toml("[mail]\nzone = 1\n[mail.smtp]\nhost = \"h\"");
    assert_eq!(
        given.settings::<Flat<Outer>>().unwrap_err(),
        missing("smtp.port", "mail.smtp", "SERVICES__MAIL__SMTP__PORT")
    );
    let given = toml("[mail.smtp]\nhost = \"h\"\nport = 25");
    assert_eq!(given.settings::<Flat<Outer>>().unwrap_err(), missing("zone", "mail", "SERVICES__MAIL__ZONE"));
    let given = toml("[mail]\nzone = 1\n[mail.smtp]\nhost = \"h\"\nprot = 25");
    assert_eq!(
        given.settings::<Flat<Outer>>().unwrap_err(),
        "`smtp.prot` of service `mail` (services.toml:5): unknown key, did you mean `port`?"
    );
}

#[test]
fn a_value_may_be_read_as_bytes_and_as_anything() {
    #[derive(Deserialize, Debug, PartialEq)]
    struct Bytes(#[serde(deserialize_with = "bytes")] Vec<u8>);
    fn bytes<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
                Ok(text.as_bytes().to_vec())
            }
        }
        d.deserialize_bytes(Visitor)
    }
    assert_eq!(variable("12"), Ok(Bytes(b"12".to_vec())));
    assert_eq!(variable("12"), Ok(serde_json::json!(12)));
    assert_eq!(variable("1.50"), Ok(serde_json::json!("1.50")));
    assert_eq!(variable("[1, \"a\"]"), Ok(serde_json::json!([1, "a"])));
    assert_eq!(file("{ a = [1, { b = \"5m\" }] }"), Ok(serde_json::json!({"a": [1, {"b": "5m"}]})));
}

#[test]
fn secrets_behind_flatten_are_not_shown() {
    let fails = |given: Given| {
        let message = given.settings::<Flat<One<Secret<u32>>>>().unwrap_err();
        assert!(!message.contains("hunter2"), "{message}");
        message
    };
    let whole = "found •••, expected a whole number from 0 to 4294967295";
    assert_eq!(
        fails(toml("[mail]\nvalue = \"hunter2\"")),
        format!("`value` of service `mail` (services.toml:2): {whole}")
    );
    assert_eq!(
        fails(env([("SERVICES__MAIL__VALUE", "hunter2")])),
        format!("`value` of service `mail` (environment variable SERVICES__MAIL__VALUE): {whole}")
    );
    #[derive(Deserialize, Debug)]
    #[serde(try_from = "One<Secret<String>>")]
    struct Checked;
    impl TryFrom<One<Secret<String>>> for Checked {
        type Error = String;
        fn try_from(one: One<Secret<String>>) -> Result<Self, String> {
            Err(format!("{} is refused", one.value.expose()))
        }
    }
    let message = toml("[mail]\nvalue = \"hunter2\"").settings::<Flat<Checked>>().unwrap_err();
    assert!(message.ends_with("••• is refused"), "{message}");
}

#[test]
fn many_values_behind_flatten_are_read_in_a_moment() {
    let variables = |count: usize| -> Given {
        let names = (0..count).map(|n| (&*format!("SERVICES__MAIL__KEY{n}").leak(), &*n.to_string().leak()));
        Given { env: names.collect(), ..Given::default() }
    };
    let few = variables(400).settings::<Flat<HashMap<String, String>>>().unwrap().inner;
    assert_eq!((few.len(), few["key399"].as_str()), (400, "399"));
    // More than that are taken as they would be in the file.
    let many = variables(2_000).settings::<Flat<HashMap<String, u32>>>().unwrap().inner;
    assert_eq!((many.len(), many["key1999"]), (2_000, 1_999));
    // So are the items of one variable, if they are more than that.
    let items = vec!["7"; 2_000].join(",");
    assert_eq!(variable(items.clone().leak()), Ok(vec![7_u8; 2_000]));
    assert_eq!(variable(items.leak()), Ok(Vec::from_iter((0..2_000).map(|_| NumberFirst::Number(7)))));
    let lists = [("SERVICES__MAIL__A", vec!["x"; 400].join(",")), ("SERVICES__MAIL__B", vec!["yes"; 400].join(","))];
    let given = Given { env: lists.map(|(name, text)| (name, &*text.leak())).to_vec(), ..Given::default() };
    let lists = given.settings::<HashMap<String, Vec<FlagFirst>>>().unwrap();
    assert_eq!((&lists["a"][399], lists["b"].len()), (&FlagFirst::Word("x".to_owned()), 400));
    // Twenty values that could each be one of two variants, beside one that nothing reads.
    #[derive(Deserialize, Debug)]
    struct Choices {
        items: Vec<NumberFirst>,
    }
    let items = (0..20).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let given = env([("SERVICES__MAIL__ITEMS", items.leak()), ("SERVICES__MAIL__STRAY", "x")]);
    let items = given.settings::<Flat<Choices>>().unwrap().inner.items;
    assert_eq!((items.len(), &items[19]), (20, &NumberFirst::Number(19)));
}
