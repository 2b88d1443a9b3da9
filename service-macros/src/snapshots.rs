//! Snapshots of generated code. `UPDATE_EXPECT=1 cargo test -p service-macros` updates them; read the difference.

use expect_test::{Expect, expect};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::quote;

/// Compares what is generated, without the user's own item, which comes first and untouched.
fn generated(args: TokenStream, item: TokenStream, expected: Expect) {
    let all = crate::attribute(args, item.clone());
    let own = item.clone().into_iter().count();
    assert_eq!(all.clone().into_iter().take(own).collect::<TokenStream>().to_string(), item.to_string());
    let generated: TokenStream = all.into_iter().skip(own).collect();
    let file = syn::parse2(generated).unwrap();
    expected.assert_eq(&prettyplease::unparse(&file));
}

#[test]
fn the_example_of_the_readme() {
    generated(
        quote!(interval = 30, max_failures = 5),
        quote! {
            impl EmailSender {
                async fn update(&mut self, cx: &Context) -> Result<Outcome> {
                    let sent = self.send_pending(cx).await?;
                    Ok(Outcome::processed(sent))
                }
            }
        },
        expect![[r##"
            #[automatically_derived]
            impl ::service_core::__private::Lifecycle for EmailSender
            where
                EmailSender: ::core::marker::Send + 'static,
            {
                fn __shape(&self) -> ::service_core::__private::Shape {
                    ::service_core::__private::Shape {
                        blocking_update: false,
                        cleanup: ::service_core::__private::Cleanup::None,
                    }
                }
                fn __update<'a>(
                    &'a mut self,
                    __cx: &'a ::service_core::__private::Context,
                ) -> ::service_core::__private::BoxFuture<
                    'a,
                    ::service_core::__private::Result<::service_core::__private::Outcome>,
                > {
                    let __this = self;
                    let __cx = __cx;
                    let __future = ::service_core::__private::Boxed::pin(async move {
                        let __output = Self::update(__this, __cx).await;
                        ::service_core::__private::IntoOutcome::into_outcome(__output)
                    });
                    __future
                }
            }
            #[automatically_derived]
            impl ::service_core::__private::Service for EmailSender
            where
                EmailSender: ::core::marker::Send + 'static,
            {
                const ID: &'static ::core::primitive::str = "email_sender";
                const DESCRIPTOR: &'static ::service_core::__private::ServiceDescriptor = &::service_core::__private::descriptor::<
                    Self,
                >(
                    ::service_core::__private::place!(),
                    &[
                        ("interval", ::service_core::__private::Literal::Int(30i64)),
                        ("max_failures", ::service_core::__private::Literal::Int(5i64)),
                    ],
                    ::service_core::__private::Some(::service_core::__private::POSSIBLE_SETTINGS),
                    false,
                );
                const BUILD: ::service_core::__private::Option<::service_core::__private::Build> = ::service_core::__private::Some(
                    <EmailSender as ::service_core::__private::ByDefault>::build,
                );
            }
            const _: () = {
                ::service_core::__private::inventory::submit! {
                    ::service_core::__private::Discovered(< EmailSender as
                    ::service_core::__private::Service > ::DESCRIPTOR, < EmailSender as
                    ::service_core::__private::Service > ::BUILD,)
                }
            };
        "##]],
    );
}

#[test]
fn every_method_and_a_renamed_crate() {
    generated(
        quote!(delay = "1m", depends_on = [Inbox, "archive"], crate = svc),
        quote! {
            impl Importer {
                async fn configure(cx: &Context, config: Settings) -> Result<Self> {
                    Ok(Self { directory: config.directory })
                }
                fn update(&mut self) {}
                fn on_failure(&mut self, failure: &Failure) -> Recovery {
                    failure.recovery()
                }
                #[cfg(unix)]
                async fn cleanup(&mut self, cx: &Context) -> Result<()> {
                    Ok(())
                }
            }
        },
        expect![[r##"
            #[automatically_derived]
            impl svc::__private::Lifecycle for Importer
            where
                Importer: ::core::marker::Send + 'static,
            {
                fn __shape(&self) -> svc::__private::Shape {
                    svc::__private::Shape {
                        blocking_update: true,
                        cleanup: {
                            #[cfg(unix)] { svc::__private::Cleanup::Async }
                            #[cfg(not(any(unix)))] { svc::__private::Cleanup::None }
                        },
                    }
                }
                fn __update_blocking(
                    &mut self,
                    _: &svc::__private::Context,
                ) -> svc::__private::Result<svc::__private::Outcome> {
                    let __this = self;
                    let __output = Self::update(__this);
                    svc::__private::IntoOutcome::into_outcome(__output)
                }
                fn __on_failure(
                    &mut self,
                    __failure: &svc::__private::Failure,
                ) -> svc::__private::Recovery {
                    let __this = self;
                    let __failure = __failure;
                    let __output = Self::on_failure(__this, __failure);
                    svc::__private::IntoRecovery::into_recovery(__output)
                }
                #[cfg(unix)]
                fn __cleanup<'a>(
                    &'a mut self,
                    __cx: &'a svc::__private::Context,
                ) -> svc::__private::BoxFuture<'a, svc::__private::Result<()>> {
                    let __this = self;
                    let __cx = __cx;
                    let __future = svc::__private::Boxed::pin(async move {
                        let __output = Self::cleanup(__this, __cx).await;
                        svc::__private::IntoCleaned::into_cleaned(__output)
                    });
                    __future
                }
            }
            #[automatically_derived]
            impl svc::__private::Service for Importer
            where
                Importer: ::core::marker::Send + 'static,
            {
                const ID: &'static ::core::primitive::str = "importer";
                const DESCRIPTOR: &'static svc::__private::ServiceDescriptor = &svc::__private::descriptor::<
                    Self,
                >(
                    svc::__private::place!(),
                    &[
                        ("delay", svc::__private::Literal::Str("1m")),
                        (
                            "depends_on",
                            svc::__private::Literal::List(
                                &[<Inbox as svc::__private::Service>::ID, "archive"],
                            ),
                        ),
                    ],
                    svc::__private::Some(<Settings as svc::__private::Config>::SETTINGS),
                    false,
                );
                const BUILD: svc::__private::Option<svc::__private::Build> = svc::__private::Some(|
                    __cx|
                {
                    let __future = svc::__private::Boxed::pin(async move {
                        let __config = <Settings as svc::__private::Config>::of(&__cx)?;
                        let __cx = &__cx;
                        let __instance = {
                            let __output = Self::configure(__cx, __config).await;
                            svc::__private::IntoInstance::<Self>::into_instance(__output)
                        };
                        svc::__private::instance::<Self>(__instance)
                    });
                    __future
                });
            }
            const _: () = {
                svc::__private::inventory::submit! {
                    svc::__private::Discovered(< Importer as svc::__private::Service > ::DESCRIPTOR,
                    < Importer as svc::__private::Service > ::BUILD,)
                }
            };
        "##]],
    );
}

#[test]
fn a_function() {
    generated(
        quote!(),
        quote! {
            pub(crate) async fn tick(cx: &Context) {}
        },
        expect![[r#"
            /// The service that runs [`tick()`].
            #[derive(
                ::core::clone::Clone,
                ::core::marker::Copy,
                ::core::fmt::Debug,
                ::core::default::Default
            )]
            pub(crate) struct TickService;
            #[automatically_derived]
            impl ::service_core::__private::Lifecycle for TickService {
                fn __shape(&self) -> ::service_core::__private::Shape {
                    ::service_core::__private::Shape {
                        blocking_update: false,
                        cleanup: ::service_core::__private::Cleanup::None,
                    }
                }
                fn __update<'a>(
                    &'a mut self,
                    __cx: &'a ::service_core::__private::Context,
                ) -> ::service_core::__private::BoxFuture<
                    'a,
                    ::service_core::__private::Result<::service_core::__private::Outcome>,
                > {
                    let __cx = __cx;
                    let __future = ::service_core::__private::Boxed::pin(async move {
                        let __output = tick(__cx).await;
                        ::service_core::__private::IntoOutcome::into_outcome(__output)
                    });
                    __future
                }
            }
            #[automatically_derived]
            impl ::service_core::__private::Service for TickService {
                const ID: &'static ::core::primitive::str = "tick";
                const DESCRIPTOR: &'static ::service_core::__private::ServiceDescriptor = &::service_core::__private::descriptor::<
                    Self,
                >(::service_core::__private::place!(), &[], ::service_core::__private::None, false);
                const BUILD: ::service_core::__private::Option<::service_core::__private::Build> = ::service_core::__private::Some(
                    <Self as ::service_core::__private::ByDefault>::build,
                );
            }
            const _: () = {
                ::service_core::__private::inventory::submit! {
                    ::service_core::__private::Discovered(< TickService as
                    ::service_core::__private::Service > ::DESCRIPTOR, < TickService as
                    ::service_core::__private::Service > ::BUILD,)
                }
            };
        "#]],
    );
}

#[test]
fn after_an_error_the_type_still_counts_as_a_service() {
    generated(
        quote!(intervall = 30),
        quote! {
            impl Sender {
                async fn update(&mut self) {}
            }
        },
        expect![[r#"
            ::core::compile_error! {
                "unknown key `intervall`; did you mean `interval`?"
            }
            #[automatically_derived]
            impl ::service_core::__private::Lifecycle for Sender
            where
                Sender: ::core::marker::Send + 'static,
            {
                fn __shape(&self) -> ::service_core::__private::Shape {
                    ::service_core::__private::Shape::NONE
                }
            }
            #[automatically_derived]
            impl ::service_core::__private::Service for Sender
            where
                Sender: ::core::marker::Send + 'static,
            {
                const ID: &'static ::core::primitive::str = "sender";
                const DESCRIPTOR: &'static ::service_core::__private::ServiceDescriptor = &::service_core::__private::descriptor::<
                    Self,
                >(::service_core::__private::place!(), &[], ::service_core::__private::None, false);
                const BUILD: ::service_core::__private::Option<::service_core::__private::Build> = ::service_core::__private::None;
            }
        "#]],
    );
}

#[test]
fn a_run_that_a_cfg_adds_to_an_update_is_an_error() {
    let (update, run) = (
        quote!(
            async fn update(&mut self) {}
        ),
        quote!(
            async fn run(&mut self) {}
        ),
    );
    let message = "rename this method, or move it to another impl block";
    let errors = |methods: TokenStream| {
        let all = crate::attribute(quote!(), quote!(impl Sender { #methods })).to_string();
        all.matches(message).count()
    };
    assert_eq!(errors(quote!(#[cfg(test)] #run #update)), 1);
    assert_eq!(errors(quote!(#update #[cfg(test)] #run)), 1);
    assert_eq!(errors(quote!(#[cfg(test)] #update #run)), 1);
    assert_eq!(errors(quote!(#[cfg(test)] #run #[cfg(not(test))] #update)), 0);
}

#[test]
fn a_generic_impl_whose_discover_is_wrong_has_one_error() {
    for args in [quote!(discover = "no"), quote!(discovr = false), quote!(instances = 2 discover = false)] {
        let item = quote!(
            impl<T: Send> Sender<T> {
                async fn update(&mut self) {}
            }
        );
        let text = crate::attribute(args, item).to_string();
        assert_eq!(text.matches("compile_error").count(), 1, "{text}");
    }
}

#[test]
fn an_unfinished_method_body_does_not_matter() {
    let item = quote! {
        impl Sender {
            const LIMIT: u32 = ;
            async fn update(&mut self) { self. }
            fn other(&self, ) -> { }
            fn cleanup(&mut self) { let x = }
        }
    };
    let text = crate::attribute(quote!(interval = 30), item).to_string();
    assert!(text.contains("__update") && text.contains("__cleanup") && !text.contains("compile_error"), "{text}");
}

#[test]
fn a_lifecycle_method_that_cannot_be_parsed_is_an_error() {
    for name in ["update", "run", "configure", "on_failure", "cleanup"] {
        let ident = quote::format_ident!("{name}");
        let rest = (!["update", "run"].contains(&name)).then(|| {
            quote!(
                async fn update(&mut self) {}
            )
        });
        let text =
            crate::attribute(quote!(), quote!(impl Sender { fn #ident(&mut self, cx) -> { } #rest })).to_string();
        let message = format!("cannot read the signature of `{name}`: write `");
        assert!(text.contains("__shape") && text.contains(&message), "{text}");
        assert_eq!(text.matches("compile_error").count(), 1, "{text}");
    }
}

#[test]
fn another_method_that_cannot_be_parsed_is_left_to_the_compiler() {
    let item = quote! {
        impl Sender {
            fn other(&mut self, cx) -> { }
            async fn update(&mut self);
            fn cleanup(&mut self) {}
        }
    };
    let text = crate::attribute(quote!(), item).to_string();
    assert!(text.contains("__update") && text.contains("__cleanup") && !text.contains("compile_error"), "{text}");
}

#[test]
fn methods_and_bodies_that_come_through_macro_variables_are_found() {
    let invisible = |tokens: TokenStream| TokenTree::from(Group::new(Delimiter::None, tokens));
    let block = invisible(quote!({
        1;
    }));
    let [nested, semicolon] = [invisible(block.clone().into()), invisible(quote!(;))];
    let [update, unreadable] = [
        quote!(
            async fn update(&mut self) {}
        ),
        quote!(pub fn other(&self, cx) -> {}),
    ]
    .map(invisible);
    for item in [
        quote!(async fn update(&mut self) #block fn cleanup(&mut self) #nested),
        quote!(fn other(&self) #block async fn update(&mut self) {} fn helper(&self) #nested fn cleanup(&mut self) {}),
        quote!(fn other(&self, cx) -> #block async fn update(&mut self) {} fn cleanup(&mut self) {}),
        quote!(const A: #nested #semicolon #unreadable #update fn cleanup(&mut self) {}),
    ] {
        let text = crate::attribute(quote!(), quote!(impl Sender { #item })).to_string();
        assert!(text.contains("__update") && text.contains("__cleanup") && !text.contains("compile_error"), "{text}");
    }
    let text = crate::attribute(quote!(), quote!(impl Sender { async fn updat(&mut self) #block })).to_string();
    assert!(text.contains("the runtime does not call `updat`"), "{text}");
}

#[test]
fn a_second_attribute_on_an_item_is_one_error_and_the_first_writes_no_code() {
    for path in [quote!(service), quote!(service_core::service), quote!(::service_core::service)] {
        for item in [
            quote!(#[#path(delay = 5)] impl Sender { fn updat(self) {} }),
            quote!(#[doc = "sends"] #[#path] async fn send(&self, batch: u32) {}),
        ] {
            let text = crate::attribute(quote!(intervall = 30), item.clone()).to_string();
            let error = quote!(::core::compile_error! { "`#[service]` is written twice: remove one of them" });
            assert_eq!(text, quote!(#item #error).to_string());
        }
    }
    let other = quote!(
        #[other::service]
        async fn tick() {}
    );
    let text = crate::attribute(quote!(), other).to_string();
    assert!(text.contains("__update") && !text.contains("compile_error"), "{text}");
}

#[test]
fn tokens_that_are_no_item_are_returned_with_an_error() {
    for item in [quote!(impl Sender for), quote!(async fn tick(cx) {}), quote!()] {
        let text = crate::attribute(quote!(), item.clone()).to_string();
        assert!(text.starts_with(&item.to_string()) && text.contains("cannot read this item"), "{text}");
    }
}

/// A small generator, so that a failure comes again.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    /// Leaves out, doubles, swaps and replaces tokens, here or in a group.
    fn spoil(&mut self, tokens: TokenStream, words: &[TokenTree]) -> TokenStream {
        let mut tokens: Vec<TokenTree> = tokens.into_iter().collect();
        if tokens.is_empty() {
            return words[self.throw(words.len())].clone().into();
        }
        let (at, other) = (self.throw(tokens.len()), self.throw(tokens.len()));
        match (tokens[at].clone(), self.throw(6)) {
            (TokenTree::Group(group), 1..) => {
                tokens[at] = Group::new(group.delimiter(), self.spoil(group.stream(), words)).into();
            }
            (_, 0 | 1) => drop(tokens.remove(at)),
            (_, 2) => tokens.insert(at, tokens[other].clone()),
            (_, 3) => tokens.swap(at, other),
            _ => tokens[at] = words[self.throw(words.len())].clone(),
        }
        tokens.into_iter().collect()
    }
}

#[test]
fn random_tokens_become_a_service_or_an_error() {
    let args: TokenStream =
        r#"interval = 30, delay = "5m", cron = "*/5 * * * FRI#2", timeout = 30µs, depends_on = [A::B, "c"],
        retry_backoff = 1.5, restart = "on_failure", crate = ::svc, name = "größe", rate_limit = "10/s""#
            .parse()
            .unwrap();
    let item = quote! {
        #[cfg(unix)]
        impl<'a, T: Clone> a::Sender<T> where Self: Sized {
            const A: u32 = { 5 };
            fn configure(cx: &Context, config: T) -> Result<Self> { Self }
            async fn update<'b>(self: &'b mut Self, cx: Cx<'_>) -> impl Future<Output = ()> { self.clean_up() }
            fn on_fail(&mut self, failure: &Failure) -> Recovery { 5 }
            #[cfg(unix)] async unsafe extern "C" fn cleanup(self) {}
        }
    };
    let function = quote!(
        pub(crate) async fn r#loop(cx: &Context) -> Result<()> {
            Ok(())
        }
    );
    let words: Vec<TokenTree> =
        quote!(fn impl async self & mut < > , = -1 30 1e999 5m "" "x" "-" ; :: Self for r#fn [] {} () 'a #)
            .into_iter()
            .collect();
    let mut dice = Dice(1);
    for seed in [item, function] {
        for _ in 0..2_000 {
            let (mut args, mut item) = (args.clone(), seed.clone());
            for _ in 0..=dice.throw(4) {
                args = dice.spoil(args, &words);
                item = dice.spoil(item, &words);
            }
            let written = crate::attribute(args, item.clone()).to_string();
            assert!(written.starts_with(&item.to_string()), "{written}");
            let is_service = ["__update", "__run"].iter().any(|method| written.contains(method));
            assert!(is_service || written.contains("compile_error"), "neither a service nor an error: {written}");
        }
    }
}
