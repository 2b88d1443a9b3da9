//! Imports the bytes of a file as rows, in the caller's transaction.
//!
//! The tricky part is to import each file once. A file is identified by its content, so the same file under another
//! name, or a file whose move to `done/` was interrupted, adds nothing. The record of the file and its rows are one
//! commit. Files whose dates overlap are compared reading by reading: the same values are skipped, other values are
//! rejected. So files are imported one at a time, also by several stations.

use std::collections::HashMap;

use chrono::{NaiveDate, Utc};
use sea_orm::ActiveValue::{NotSet, Set};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, QueryFilter, QueryOrder};
use sha2::{Digest, Sha256};

use crate::line::{self, Observation};
use crate::tables::{FAILED, PENDING, daily, imported_file, reading, rejected_line};

/// Rows per insert, far below the limit of databases on values per statement.
const CHUNK: usize = 500;

/// A line that is not a reading, and why.
#[derive(Debug, PartialEq)]
pub struct Rejected {
    pub line: i32,
    pub content: Vec<u8>,
    pub reason: String,
}

/// The content of a file.
#[derive(Debug, Default)]
pub struct Sorted {
    pub readings: Vec<(i32, Observation)>,
    /// Lines whose reading already exists with the same values.
    pub known: i32,
    pub rejected: Vec<Rejected>,
}

/// The result of an import.
pub enum Imported {
    /// The file was imported now.
    Now { file: imported_file::Model, rejected: Vec<Rejected> },
    /// The same bytes were imported before.
    Before(imported_file::Model),
}

/// Returns the hash that identifies a file's content.
pub fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the file with this content, if it was imported.
pub async fn find(db: &impl ConnectionTrait, hash: &str) -> Result<Option<imported_file::Model>, DbErr> {
    imported_file::Entity::find().filter(imported_file::Column::Hash.eq(hash)).one(db).await
}

/// Imports a file. The caller commits.
pub async fn import(tx: &impl ConnectionTrait, name: &str, bytes: &[u8]) -> Result<Imported, DbErr> {
    if tx.get_database_backend() == DbBackend::Postgres {
        // One import at a time: two at once would not see each other's readings. On SQLite the transaction has the
        // write lock.
        tx.execute_unprepared("LOCK TABLE imported_file IN SHARE ROW EXCLUSIVE MODE").await?;
    }
    let hash = hash(bytes);
    if let Some(before) = find(tx, &hash).await? {
        return Ok(Imported::Before(before));
    }
    let mut known = known_readings(tx, bytes).await?;
    let sorted = sort(name, bytes, &mut known);
    let file = imported_file::ActiveModel {
        id: NotSet,
        hash: Set(hash),
        name: Set(name.to_owned()),
        readings: Set(sorted.readings.len() as i32),
        known: Set(sorted.known),
        rejected: Set(sorted.rejected.len() as i32),
        imported_at: Set(Utc::now()),
    };
    let file = file.insert(tx).await?;
    for chunk in sorted.readings.chunks(CHUNK) {
        let rows = chunk.iter().map(|(line, observation)| row(&file, *line, observation));
        reading::Entity::insert_many(rows).exec_without_returning(tx).await?;
    }
    for chunk in sorted.rejected.chunks(CHUNK) {
        let rows = chunk.iter().map(|rejected| rejected_line::ActiveModel {
            file_id: Set(file.id),
            line: Set(rejected.line),
            content: Set(rejected.content.clone()),
            reason: Set(rejected.reason.clone()),
        });
        rejected_line::Entity::insert_many(rows).exec_without_returning(tx).await?;
    }
    Ok(Imported::Now { file, rejected: sorted.rejected })
}

/// Returns a file with the rejected lines, each below its reason. The user can correct it and put it into the inbox.
pub async fn rejected_file(db: &impl ConnectionTrait, file: &imported_file::Model) -> Result<Option<Vec<u8>>, DbErr> {
    let lines = rejected_line::Entity::find()
        .filter(rejected_line::Column::FileId.eq(file.id))
        .order_by_asc(rejected_line::Column::Line)
        .all(db)
        .await?;
    if lines.is_empty() {
        return Ok(None);
    }
    let mut content = format!("{}\n", line::HEADER).into_bytes();
    for rejected in lines {
        content.extend(format!("# {}, line {}: {}\n", file.name, rejected.line, rejected.reason).into_bytes());
        content.extend(rejected.content);
        content.push(b'\n');
    }
    Ok(Some(content))
}

fn row(file: &imported_file::Model, line: i32, observation: &Observation) -> reading::ActiveModel {
    let Observation { date, precipitation, temp_max, temp_min, wind, weather } = observation.clone();
    reading::ActiveModel {
        id: NotSet,
        file_id: Set(file.id),
        file: Set(file.name.clone()),
        line: Set(line),
        date: Set(date),
        precipitation: Set(precipitation),
        temp_max: Set(temp_max),
        temp_min: Set(temp_min),
        wind: Set(wind),
        weather: Set(weather),
        status: Set(PENDING.to_owned()),
        error_message: Set(None),
        attempts: Set(0),
        updated_at: Set(None),
    }
}

/// A reading that already exists, and its source.
struct Known {
    observation: Observation,
    place: String,
}

/// Sorts the lines into readings, known ones and rejected ones. `known` has the readings of the database for these
/// dates; those of the file are added.
fn sort(name: &str, bytes: &[u8], known: &mut HashMap<NaiveDate, Known>) -> Sorted {
    let mut sorted = Sorted::default();
    let mut lines = lines(bytes);
    let first = lines.next().map_or(&b""[..], |(_, content)| content);
    if let Err(reason) = line::check_header(first) {
        // Without the columns no line can be read: the whole file is rejected.
        sorted.rejected.push(Rejected { line: 1, content: first.to_vec(), reason });
        sorted.rejected.extend(lines.map(|(line, content)| Rejected {
            line,
            content: content.to_vec(),
            reason: "the file's first line does not name the columns".into(),
        }));
        return sorted;
    }
    // Lines with `#` are comments, as in the files of rejected lines.
    for (line, content) in lines.filter(|(_, content)| !content.starts_with(b"#")) {
        let reason = match Observation::parse(content) {
            Err(reason) => reason,
            Ok(read) => match known.get(&read.date) {
                Some(there) if there.observation == read => {
                    sorted.known += 1;
                    continue;
                }
                Some(there) => format!("{} already has other values, from {}", read.date, there.place),
                None => {
                    let place = format!("{name}, line {line}");
                    known.insert(read.date, Known { observation: read.clone(), place });
                    sorted.readings.push((line, read));
                    continue;
                }
            },
        };
        sorted.rejected.push(Rejected { line, content: content.to_vec(), reason });
    }
    sorted
}

/// Returns the lines with their numbers, from 1. A line end at the end of the file begins no further line.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (i32, &[u8])> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    (1..).zip(bytes.split(|byte| *byte == b'\n'))
}

/// Returns the readings in the database for the dates between the first and the last of the file. Failed readings do
/// not count: a later reading may replace them.
async fn known_readings(db: &impl ConnectionTrait, bytes: &[u8]) -> Result<HashMap<NaiveDate, Known>, DbErr> {
    let dates: Vec<_> = lines(bytes).filter_map(|(_, line)| Observation::parse(line).ok()).map(|o| o.date).collect();
    let (Some(&first), Some(&last)) = (dates.iter().min(), dates.iter().max()) else { return Ok(HashMap::new()) };
    let mut known = HashMap::new();
    // The readings are deleted after a week; the figures stay.
    for day in daily::Entity::find().filter(daily::Column::Date.between(first, last)).all(db).await? {
        let daily::Model { date, precipitation, temp_max, temp_min, wind, weather, .. } = day;
        let observation = Observation { date, precipitation, temp_max, temp_min, wind, weather };
        known.insert(date, Known { observation, place: "an earlier file".into() });
    }
    let readings = reading::Entity::find()
        .filter(reading::Column::Date.between(first, last))
        .filter(reading::Column::Status.ne(FAILED));
    for reading in readings.all(db).await? {
        let place = format!("{}, line {}", reading.file, reading.line);
        known.insert(reading.date, Known { observation: reading.observation(), place });
    }
    Ok(known)
}

#[cfg(test)]
mod tests;
