//! The pages of the dashboard. They are written on the server, and their forms work without JavaScript; with it, pages
//! stay current by `/events`.
//!
//! The tricky part is that the interface may be mounted anywhere. So links are relative to the page: each has the way
//! to the root of the interface in front.

mod audit;
mod forms;
mod layout;
mod login;
mod parts;
mod replicas;
mod service;
mod services;
mod work;

pub(crate) use audit::audit;
pub(crate) use forms::{change_override, command, retry};
pub(crate) use layout::asset;
pub(crate) use login::{log_in, login, refused};
pub(crate) use replicas::replicas;
pub(crate) use service::service;
pub(crate) use services::services;
pub(crate) use work::{failed_rows, work};
