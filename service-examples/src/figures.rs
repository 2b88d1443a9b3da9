//! Computes the figures of a reading: those of its day and month, and the records that it breaks.
//!
//! One statement adds a day to the figures of its month. Run twice, it would count the day twice. It runs in the
//! transaction that completes the reading, so it takes effect once.

use chrono::Datelike;
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict, SimpleExpr};
use sea_orm::{ActiveModelTrait, ConnectionTrait, DbErr, EntityTrait, IntoActiveModel, QuerySelect};

use crate::line::Observation;
use crate::tables::{daily, extreme, monthly, record};

/// Why a reading has no figures.
#[derive(Debug, thiserror::Error)]
pub enum FiguresError {
    #[error("temp_min {0} is above temp_max {1}")]
    Crossed(f64, f64),
    #[error("{0} {1} is outside {2} to {3}, the range of all values ever measured")]
    Impossible(&'static str, f64, f64, f64),
    #[error("{0} already has figures")]
    Known(chrono::NaiveDate),
    #[error(transparent)]
    Database(#[from] DbErr),
}

impl FiguresError {
    /// Whether the reading itself is wrong, so that a retry is useless.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Database(_))
    }
}

/// Adds a reading to the figures. Nothing is written if the reading is wrong.
pub async fn add(tx: &impl ConnectionTrait, reading: &Observation) -> Result<(), FiguresError> {
    check(reading)?;
    if daily::Entity::find_by_id(reading.date).one(tx).await?.is_some() {
        return Err(FiguresError::Known(reading.date));
    }
    daily::Entity::insert(day(reading)).exec_without_returning(tx).await?;
    add_to_month(tx, reading).await?;
    break_records(tx, reading).await?;
    Ok(())
}

fn check(reading: &Observation) -> Result<(), FiguresError> {
    // The records on earth for the rain, the temperatures and the mean wind of one day.
    for (name, value, low, high) in [
        ("precipitation", reading.precipitation, 0.0, 1825.0),
        ("temp_max", reading.temp_max, -89.2, 56.7),
        ("temp_min", reading.temp_min, -89.2, 56.7),
        ("wind", reading.wind, 0.0, 113.2),
    ] {
        if !(low..=high).contains(&value) {
            return Err(FiguresError::Impossible(name, value, low, high));
        }
    }
    if reading.temp_min > reading.temp_max {
        return Err(FiguresError::Crossed(reading.temp_min, reading.temp_max));
    }
    Ok(())
}

fn day(reading: &Observation) -> daily::ActiveModel {
    daily::Model {
        date: reading.date,
        precipitation: reading.precipitation,
        temp_max: reading.temp_max,
        temp_min: reading.temp_min,
        wind: reading.wind,
        weather: reading.weather.clone(),
        temp_mean: (reading.temp_max + reading.temp_min) / 2.0,
        temp_range: reading.temp_max - reading.temp_min,
    }
    .into_active_model()
    .reset_all()
}

/// Adds a day to its month. One statement, so that concurrent workers do not overwrite each other's days.
async fn add_to_month(tx: &impl ConnectionTrait, reading: &Observation) -> Result<(), DbErr> {
    use monthly::Column as C;
    let stands = |column: C| Expr::col((monthly::Entity, column));
    let sum = |column: C, value: f64| stands(column).add(value);
    let mean = |column: C, value: f64| -> SimpleExpr {
        stands(column).mul(stands(C::Days)).add(value).div(stands(C::Days).add(1.0))
    };
    let beyond = |column: C, value: f64, is_beyond: SimpleExpr| -> SimpleExpr {
        Expr::case(is_beyond, value).finally(stands(column)).into()
    };
    let rain = i32::from(reading.precipitation > 0.0);
    let month = monthly::Model {
        month: format!("{:04}-{:02}", reading.date.year(), reading.date.month()),
        days: 1,
        rain_days: rain,
        precipitation: reading.precipitation,
        temp_max_mean: reading.temp_max,
        temp_min_mean: reading.temp_min,
        temp_highest: reading.temp_max,
        temp_lowest: reading.temp_min,
        wind_mean: reading.wind,
    };
    let add = OnConflict::column(C::Month)
        .value(C::Days, stands(C::Days).add(1))
        .value(C::RainDays, stands(C::RainDays).add(rain))
        .value(C::Precipitation, sum(C::Precipitation, reading.precipitation))
        .value(C::TempMaxMean, mean(C::TempMaxMean, reading.temp_max))
        .value(C::TempMinMean, mean(C::TempMinMean, reading.temp_min))
        .value(C::WindMean, mean(C::WindMean, reading.wind))
        .value(C::TempHighest, beyond(C::TempHighest, reading.temp_max, stands(C::TempHighest).lt(reading.temp_max)))
        .value(C::TempLowest, beyond(C::TempLowest, reading.temp_min, stands(C::TempLowest).gt(reading.temp_min)))
        .to_owned();
    monthly::Entity::insert(month.into_active_model().reset_all())
        .on_conflict(add)
        .exec_without_returning(tx)
        .await
        .map(drop)
}

/// Compares a reading with the records so far. The first reading sets them without breaking any.
async fn break_records(tx: &impl ConnectionTrait, reading: &Observation) -> Result<(), DbErr> {
    // Locks the rows, if the database can, so that two workers do not break the same record.
    let records = record::Entity::find().lock_exclusive().all(tx).await?;
    for (kind, value, sign) in [
        ("hottest", reading.temp_max, 1.0),
        ("coldest", reading.temp_min, -1.0),
        ("wettest", reading.precipitation, 1.0),
        ("windiest", reading.wind, 1.0),
    ] {
        let now = record::Model { kind: kind.to_owned(), date: reading.date, value }.into_active_model().reset_all();
        let Some(former) = records.iter().find(|record| record.kind == kind) else {
            record::Entity::insert(now).exec_without_returning(tx).await?;
            continue;
        };
        if value * sign <= former.value * sign {
            continue;
        }
        record::Entity::update(now).exec(tx).await?;
        let broken = extreme::ActiveModel {
            id: NotSet,
            kind: Set(kind.to_owned()),
            date: Set(reading.date),
            value: Set(value),
            former_date: Set(former.date),
            former_value: Set(former.value),
            digest_id: Set(None),
        };
        broken.insert(tx).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sea_orm::{Database, PaginatorTrait};

    use super::*;
    use crate::tables;

    fn reading(line: &str) -> Observation {
        Observation::parse(line.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn a_month_is_the_sum_of_its_days() {
        let db = Database::connect("sqlite::memory:").await.unwrap();
        tables::create(&db).await.unwrap();
        for line in ["2012/01/01,0.0,12.8,5.0,4.7,drizzle", "2012/01/02,10.9,10.6,2.8,4.5,rain"] {
            add(&db, &reading(line)).await.unwrap();
        }
        let month = monthly::Entity::find_by_id("2012-01").one(&db).await.unwrap().unwrap();
        assert_eq!((month.days, month.rain_days, month.precipitation), (2, 1, 10.9));
        assert_eq!((month.temp_highest, month.temp_lowest), (12.8, 2.8));
        assert!((month.temp_max_mean - 11.7).abs() < 1e-9 && (month.wind_mean - 4.6).abs() < 1e-9);
        // Colder and wetter than the first day, which set the records.
        assert_eq!(extreme::Entity::find().count(&db).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_wrong_reading_writes_nothing() {
        let db = Database::connect("sqlite::memory:").await.unwrap();
        tables::create(&db).await.unwrap();
        add(&db, &reading("2012/01/01,0.0,12.8,5.0,4.7,drizzle")).await.unwrap();
        for (line, reason) in [
            ("2012/01/01,0.0,12.8,5.0,4.7,drizzle", "2012-01-01 already has figures"),
            ("2012/01/02,0.0,3.3,12.2,2.7,fog", "temp_min 12.2 is above temp_max 3.3"),
            ("2012/01/02,-3.0,3.3,2.2,2.7,fog", "precipitation -3 is outside 0 to 1825"),
            ("2012/01/02,0.0,61.1,2.2,2.7,fog", "temp_max 61.1 is outside -89.2 to 56.7"),
        ] {
            let error = add(&db, &reading(line)).await.unwrap_err();
            assert!(error.to_string().starts_with(reason) && error.is_final(), "{error}");
        }
        assert_eq!(daily::Entity::find().count(&db).await.unwrap(), 1);
        assert_eq!(monthly::Entity::find_by_id("2012-01").one(&db).await.unwrap().unwrap().days, 1);
    }
}
