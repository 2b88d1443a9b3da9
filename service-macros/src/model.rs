//! One service: its options and its lifecycle methods.
//!
//! A model can be made of every impl and every function that could be parsed. Whether it is valid, `validate` checks.

use proc_macro2::{Ident, Span};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Attribute, Generics, Path, ReturnType, Signature, Type, Visibility};

use crate::parse::args::{Arg, Args};
use crate::parse::attributes::Inherited;
use crate::parse::item::{Function, Impl, Method};
use crate::parse::names;
use crate::parse::reads::{self, ReadsSettings};
use crate::parse::value::{Literal, Value};

pub(crate) struct Model {
    pub(crate) subject: Subject,
    /// The path of the runtime crate, if the attribute has one.
    pub(crate) runtime: Option<Path>,
    pub(crate) id: String,
    /// The id was derived from the item's name.
    pub(crate) id_derived: bool,
    pub(crate) discover: bool,
    /// From the attributes of the whole item.
    pub(crate) inherited: Inherited,
    /// The keys and values for the descriptor, in the order written.
    pub(crate) attributes: Vec<(&'static str, Literal)>,
    /// The variants of `update` or `run`.
    pub(crate) updates: Vec<Lifecycle>,
    pub(crate) configures: Vec<Lifecycle>,
    pub(crate) on_failures: Vec<Lifecycle>,
    pub(crate) cleanups: Vec<Lifecycle>,
    /// Whether the code reads settings by itself, as `cx.config::<Settings>()` does.
    pub(crate) reads_settings: ReadsSettings,
    /// Warnings about methods whose name is similar to that of a lifecycle method.
    pub(crate) hints: Vec<Hint>,
}

pub(crate) enum Subject {
    Impl {
        /// The `impl` token: where an error about the impl is shown.
        at: Span,
        generics: Box<Generics>,
        ty: Type,
    },
    Function {
        vis: Visibility,
        ident: Ident,
        /// The type of the service.
        service: Ident,
        /// `#[doc(hidden)]` and similar attributes.
        docs: Vec<Attribute>,
    },
}

/// A lifecycle method.
pub(crate) struct Lifecycle {
    pub(crate) sig: Signature,
    /// It is a `run`, which continues until a stop is requested.
    pub(crate) long: bool,
    /// From the attributes of the method; empty for a function, whose attributes are those of the item.
    pub(crate) inherited: Inherited,
}

/// A warning about a method whose name is similar to that of a lifecycle method.
pub(crate) struct Hint {
    pub(crate) ident: Ident,
    pub(crate) note: String,
    /// From the attributes of the method.
    pub(crate) inherited: Inherited,
}

impl Model {
    pub(crate) fn of_impl(item: &Impl, args: Args) -> Self {
        let subject =
            Subject::Impl { at: item.impl_token.span, generics: Box::new(item.generics.clone()), ty: item.ty.clone() };
        let named = |names: &[&str]| {
            let is_named = |method: &&Method| names.iter().any(|name| method.sig.ident.unraw() == *name);
            let lifecycle = |method: &Method| Lifecycle {
                sig: method.sig.clone(),
                long: method.sig.ident.unraw() == "run",
                inherited: Inherited::of(&method.attrs),
            };
            item.methods.iter().filter(is_named).map(lifecycle).collect()
        };
        Self {
            updates: named(&["update", "run"]),
            configures: named(&["configure"]),
            on_failures: named(&["on_failure"]),
            cleanups: named(&["cleanup"]),
            reads_settings: reads::by_methods(&item.methods),
            ..Self::new(subject, &item.attrs, args)
        }
    }

    pub(crate) fn of_function(item: &Function, args: Args) -> Self {
        // Without the text: its examples would be tested twice.
        let docs = item.attrs.iter().filter(|attr| attr.path().is_ident("doc") && attr.meta.require_list().is_ok());
        let docs = docs.cloned().collect();
        let ident = item.sig.ident.clone();
        // Errors are shown at the function, but lints know that the macro wrote it.
        let span = Span::call_site().located_at(ident.span());
        let service = Ident::new(&names::function_type(&ident.to_string()), span);
        let subject = Subject::Function { vis: item.vis.clone(), ident, service, docs };
        let long = args.switch("long_running", false) == Some(true);
        let update = Lifecycle { sig: item.sig.clone(), long, inherited: Inherited::default() };
        Self {
            updates: vec![update],
            reads_settings: reads::by_function(item),
            ..Self::new(subject, &item.attrs, args)
        }
    }

    fn new(subject: Subject, attrs: &[Attribute], args: Args) -> Self {
        let runtime = args.get("crate").and_then(Arg::path).cloned();
        let id = match args.get("name").and_then(Arg::text) {
            Some(name) => name.to_owned(),
            None => subject.name().map(|name| names::snake_case(&name.to_string())).unwrap_or_default(),
        };
        let id_derived = args.get("name").is_none();
        let discover = args.switch("discover", true) == Some(true);
        Self {
            subject,
            runtime,
            id,
            id_derived,
            discover,
            inherited: Inherited::of(attrs),
            attributes: args
                .into_iter()
                .filter(|arg| !arg.key.macro_only)
                .filter_map(|arg| match arg.value? {
                    Value::Literal(literal) => Some((arg.key.name, literal)),
                    Value::Path(_) => None,
                })
                .collect(),
            updates: Vec::new(),
            configures: Vec::new(),
            on_failures: Vec::new(),
            cleanups: Vec::new(),
            reads_settings: ReadsSettings::No,
            hints: Vec::new(),
        }
    }
}

impl Subject {
    /// The type's or function's own name.
    pub(crate) fn name(&self) -> Option<&Ident> {
        match self {
            Self::Impl { ty: Type::Path(path), .. } => path.path.segments.last().map(|segment| &segment.ident),
            Self::Impl { .. } => None,
            Self::Function { ident, .. } => Some(ident),
        }
    }
}

impl Lifecycle {
    pub(crate) fn is_async(&self) -> bool {
        self.sig.asyncness.is_some()
    }

    /// Where an error about the return type is shown.
    pub(crate) fn output_span(&self) -> Span {
        match &self.sig.output {
            ReturnType::Type(_, ty) => ty.span(),
            ReturnType::Default => self.sig.ident.span(),
        }
    }
}
