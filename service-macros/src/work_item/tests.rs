//! The code that the derive writes, and its errors.

use expect_test::{Expect, expect};
use quote::quote;

use proc_macro2::{Delimiter, Group, Span};

use super::*;
use crate::work_item::columns::variant;

fn messages(input: TokenStream) -> Vec<String> {
    let file: syn::File = syn::parse2(derive(input)).unwrap();
    file.items
        .iter()
        .filter_map(|item| match item {
            syn::Item::Macro(item) => syn::parse2::<syn::LitStr>(item.mac.tokens.clone()).ok().map(|text| text.value()),
            _ => None,
        })
        .collect()
}

/// A model with these columns, and this attribute.
fn model(attribute: TokenStream, columns: TokenStream) -> TokenStream {
    quote! {
        #[sea_orm(table_name = "job")]
        #attribute
        pub struct Model {
            #[sea_orm(primary_key)]
            pub id: i64,
            #columns
        }
    }
}

fn complains(attribute: TokenStream, columns: TokenStream, expected: Expect) {
    expected.assert_eq(&messages(model(attribute, columns)).join("\n"));
}

#[test]
fn a_primary_key_is_required() {
    let input = quote! {
        #[sea_orm(table_name = "job")]
        #[work_item(status = "status")]
        pub struct Model {
            pub id: i64,
            pub status: String,
        }
    };
    let expected = "a work item needs a primary key: put `#[sea_orm(primary_key)]` on each column of the key";
    assert_eq!(messages(input), [expected]);
}

#[test]
fn the_code_names_only_columns() {
    let input = model(
        quote!(#[work_item(status = "status", error = "why", attempts = "tried_2_times", max_attempts = 5, available_at = "due", updated_at = "touched_at", retain_completed = "30d")]),
        quote! {
            pub status: String,
            #[sea_orm(column_name = "why")]
            pub error_message: Option<String>,
            pub tried_2_times: i32,
            #[sea_orm(enum_name = "DueAt", indexed)]
            pub due: Option<DateTimeUtc>,
            pub touched_at: DateTimeWithTimeZone,
        },
    );
    let written = prettyplease::unparse(&syn::parse2(derive(input)).unwrap());
    expect![[r#"
        #[automatically_derived]
        impl ::service_core::__private::database::WorkItem for Entity {
            fn __work() -> ::service_core::__private::database::Work<Column> {
                ::service_core::__private::database::Work {
                    status: Column::Status,
                    known_statuses: ::service_core::__private::database::any_status,
                    error: ::core::option::Option::Some(Column::ErrorMessage),
                    attempts: ::core::option::Option::Some(Column::Tried2Times),
                    max_attempts: 5u32,
                    available_at: ::core::option::Option::Some((
                        Column::DueAt,
                        ::service_core::__private::database::time_value::<Option<DateTimeUtc>>,
                    )),
                    updated_at: ::core::option::Option::Some((
                        Column::TouchedAt,
                        ::service_core::__private::database::time_value::<DateTimeWithTimeZone>,
                    )),
                    retain_completed: ::core::option::Option::Some(
                        ::core::time::Duration::new(2592000u64, 0u32),
                    ),
                }
            }
        }
        ::service_core::__private::inventory::submit! {
            ::service_core::__private::database::LinkedTable::of:: < Entity > ()
        }
    "#]]
    .assert_eq(&written);
}

#[test]
fn the_expanded_model_gets_no_code() {
    let input = quote! {
        #[work_item(status = "status")]
        pub struct ModelEx { pub id: i64, pub status: String }
    };
    assert!(derive(input).is_empty());
}

#[test]
fn an_unknown_column_is_an_error_with_the_nearest_one() {
    complains(
        quote!(#[work_item(status = "stauts", error = "nonsense")]),
        quote!(pub status: String,),
        expect![[r#"
            there is no column `stauts`; did you mean `status`?
            there is no column `nonsense`; the columns are id, status"#]],
    );
}

#[test]
fn an_unknown_key_is_an_error_with_the_nearest_one() {
    complains(
        quote!(#[work_item(status = "status", atempts = "n", foo = 1, status = "status", error)]),
        quote!(pub status: String,),
        expect![[r#"
            unknown key `atempts`; did you mean `attempts`?
            unknown key `foo`: the keys are status, error, attempts, max_attempts, available_at, updated_at, retain_completed, crate; the other columns need no key
            `status` is written twice: remove one of them
            `error` has no value: write `error = "error_message"`"#]],
    );
}

#[test]
fn a_wrong_type_of_a_column_is_an_error_with_the_right_one() {
    complains(
        quote!(#[work_item(status = "status", error = "error", attempts = "attempts", available_at = "due", updated_at = "updated_at")]),
        quote! {
            pub status: Option<String>,
            pub error: i32,
            pub attempts: Option<i32>,
            pub due: i64,
            pub updated_at: String,
        },
        expect![[r#"
            the status cannot be null: make `status` a `String`, or an enum stored as text
            `error` holds an error message: make it an `Option<String>`, not `i32`
            the number of attempts cannot be null: make `attempts` an `i32`
            `due` holds a time: make it a `DateTimeUtc`, or a `ChronoUnixTimestampMillis` where the table has a number, not `i64`
            `updated_at` holds a time: make it a `DateTimeUtc`, not `String`"#]],
    );
    complains(
        quote!(#[work_item(status = "done", attempts = "tries")]),
        quote!(pub done: bool, pub tries: String,),
        expect![[r#"
            `done` holds the status as text (`pending`, `completed`, `failed`): make it a `String`, or an enum stored as text, not `bool`
            `tries` counts attempts: make it an `i32`, not `String`"#]],
    );
    complains(
        quote!(#[work_item(status = "id")]),
        quote!(),
        expect!["`id` is the primary key and cannot hold the status, which changes: name another column"],
    );
    let from_a_variable = Group::new(Delimiter::None, quote!(Option<i32>));
    complains(
        quote!(#[work_item(status = "status", attempts = "attempts")]),
        quote!(pub status: String, pub attempts: #from_a_variable,),
        expect!["the number of attempts cannot be null: make `attempts` an `i32`"],
    );
}

#[test]
fn a_wrong_value_is_an_error_that_says_what_to_write() {
    complains(
        quote!(#[work_item(status = 5, max_attempts = "5")]),
        quote!(pub status: String,),
        expect![[r#"
            `status` takes the name of a column in quotes, for example `status = "status"`
            `max_attempts` takes a number without quotes: write `max_attempts = 5`
            `max_attempts` has no effect without `attempts`: add `attempts = "attempts"` or remove `max_attempts`"#]],
    );
    complains(
        quote!(#[work_item(status = "status", attempts = "n", max_attempts = 0)]),
        quote!(pub status: String, pub n: i32,),
        expect!["`max_attempts` must be at least 1"],
    );
    complains(
        quote!(#[work_item(status = "status", max_attempts = 5)]),
        quote!(pub status: String,),
        expect![[
            r#"`max_attempts` has no effect without `attempts`: add `attempts = "attempts"` or remove `max_attempts`"#
        ]],
    );
    complains(
        quote!(#[work_item(status = "status", retain_completed = "30d")]),
        quote!(pub status: String,),
        expect![[
            r#"`retain_completed` has no effect without `updated_at`: add `updated_at = "updated_at"` or remove `retain_completed`"#
        ]],
    );
    complains(
        quote!(#[work_item(status = "status", error = "status")]),
        quote!(pub status: String,),
        expect!["`status` uses the column `status` already: `error` needs another one"],
    );
    complains(
        quote!(#[work_item(status "status")]),
        quote!(pub status: String,),
        expect![[r#"expected `=` after `status`: write `status = "status"`"#]],
    );
}

#[test]
fn the_status_is_required() {
    complains(
        quote!(),
        quote!(pub status: String,),
        expect![[r#"the status column is not named: add `#[work_item(status = "status")]` below the derives"#]],
    );
    complains(
        quote!(#[work_item(error = "error")]),
        quote!(pub state: String, pub error: String,),
        expect![[r#"the status column is not named: add `status = "state"`"#]],
    );
}

#[test]
fn only_a_model_with_a_key_is_a_work_item() {
    let no_key = quote! {
        #[sea_orm(table_name = "job")]
        #[work_item(status = "status")]
        struct Model { status: String }
    };
    expect!["a work item needs a primary key: put `#[sea_orm(primary_key)]` on each column of the key"]
        .assert_eq(&messages(no_key).join("\n"));
    for other in [
        quote!(
            #[work_item(status = "a")]
            enum Model {
                A,
            }
        ),
        quote!(
            #[work_item(status = "a")]
            struct Model(String);
        ),
        quote!(
            #[work_item(status = "a")]
            struct Model {
                a: String,
            }
        ),
    ] {
        let messages = messages(other);
        assert_eq!(messages.len(), 1);
        assert!(
            messages[0].starts_with("a work item is a row of a table: derive `WorkItem` on a sea-orm model"),
            "{messages:?}"
        );
    }
}

#[test]
fn after_an_error_there_is_still_an_impl() {
    let written = derive(model(quote!(#[work_item(status = "x")]), quote!(pub status: String,))).to_string();
    assert!(written.contains("WorkItem for Entity"), "{written}");
}

#[test]
fn variants_are_named_as_sea_orm_names_them() {
    for (field, expected) in [
        ("error_message", "ErrorMessage"),
        ("due2_at", "Due2At"),
        ("ID", "Id"),
        ("created_at_2", "CreatedAt2"),
        ("fooBar", "FooBar"),
    ] {
        assert_eq!(variant(field, Span::call_site()), expected);
    }
}
