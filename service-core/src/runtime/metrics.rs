//! [`Metrics`]: a service's own counters and gauges.

use std::collections::BTreeMap;

use crate::sync::Mutex;

type Values = BTreeMap<Box<str>, f64>;

/// A service's own counters and gauges, which its health shows. Both share one set of names. They last until the
/// service is unregistered, also over restarts of the service, and end with the process. All methods may be called from
/// any thread. In `/metrics` they are gauges: `service_custom`, with the name in the label `name`.
///
/// ```no_run
/// # fn work(cx: &service_core::Context) {
/// cx.metrics().add("items_processed", 12);
/// cx.metrics().set("queue_depth", 0.5);
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Metrics {
    values: Mutex<Option<Box<Values>>>,
}

impl Metrics {
    /// Adds to a counter. It starts at 0. The amount may be negative. Values are `f64`: above 2^53, a counter loses
    /// single units. An amount that is infinite or not a number is ignored.
    pub fn add(&self, name: &str, amount: impl MetricValue) {
        // User code, which runs outside of the lock.
        let amount = amount.into_f64();
        // With it, the counter would never have a value again.
        if amount.is_finite() {
            self.update(name, |value| *value += amount);
        }
    }

    /// Sets a gauge. JSON has `null` for a value that is infinite or not a number.
    pub fn set(&self, name: &str, value: impl MetricValue) {
        let new = value.into_f64();
        self.update(name, |value| *value = new);
    }

    /// Returns the value of a counter or gauge.
    pub fn get(&self, name: &str) -> Option<f64> {
        let values = self.values.lock();
        values.as_ref()?.get(name).copied()
    }

    fn update(&self, name: &str, change: impl FnOnce(&mut f64)) {
        let mut values = self.values.lock();
        let values = values.get_or_insert_default();
        match values.get_mut(name) {
            Some(value) => change(value),
            None => change(values.entry(name.into()).or_default()),
        }
    }

    pub(crate) fn snapshot(&self) -> BTreeMap<String, f64> {
        let values = self.values.lock();
        values.iter().flat_map(|map| map.iter()).map(|(name, value)| (name.to_string(), *value)).collect()
    }
}

/// A number that can be the value of a metric.
pub trait MetricValue {
    /// Converts into a floating-point number.
    fn into_f64(self) -> f64;
}

macro_rules! metric_values {
    ($($number:ty)*) => {$(
        impl MetricValue for $number {
            fn into_f64(self) -> f64 {
                self as f64
            }
        }
    )*};
}

metric_values!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize f32 f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_ignores_an_amount_that_is_not_finite() {
        let metrics = Metrics::default();
        for amount in [2.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 3.0] {
            metrics.add("items", amount);
        }
        assert_eq!(metrics.get("items"), Some(5.0));
        metrics.add("other", f64::NAN);
        assert_eq!(metrics.get("other"), None);
    }
}
