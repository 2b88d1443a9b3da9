//! Sorting lines needs no database. Importing is tested with a database in memory.

use sea_orm::{Database, PaginatorTrait};

use super::*;
use crate::bundled;
use crate::tables;

#[test]
fn every_bad_line_of_the_handmade_file_has_its_reason() {
    let mut known = HashMap::new();
    sort("seattle-weather.csv", bundled::OBSERVATIONS, &mut known);
    let sorted = sort("handmade-2016.csv", bundled::HANDMADE, &mut known);
    let found: Vec<_> = sorted.rejected.iter().map(|rejected| (rejected.line, rejected.reason.as_str())).collect();
    let columns = "expected 6: date,precipitation,temp_max,temp_min,wind,weather";
    assert_eq!(
        found,
        [
            (4, format!("5 columns, {columns}").as_str()),
            (5, "temp_min `warm`, expected a number"),
            (6, "date `2016/02/30`: there is no such day"),
            (7, "2016-01-02 already has other values, from handmade-2016.csv, line 3"),
            (10, "the line is empty"),
            (11, "not UTF-8 at byte 30"),
            (12, format!("7 columns, {columns}").as_str()),
            (13, "temp_max `NaN`, expected a number"),
            (14, "date `08.01.2016`, expected the form 2012/01/31"),
            (16, "weather `hail`, expected one of drizzle, fog, rain, snow, sun"),
            (17, "2012-01-01 already has other values, from seattle-weather.csv, line 2"),
            (22, format!("3 columns, {columns}").as_str()),
        ]
    );
    assert_eq!(sorted.known, 2);
    assert_eq!(sorted.readings.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 9, 15, 19, 20, 21]);
}

#[test]
fn without_a_header_every_line_is_rejected() {
    let sorted = sort("x.csv", b"2012/01/01,0.0,12.8,5.0,4.7,drizzle\nmore\n", &mut HashMap::new());
    assert_eq!(sorted.rejected.len(), 2);
    assert!(sorted.rejected[0].reason.contains("expected `date,precipitation"));
    assert_eq!(sort("x.csv", b"", &mut HashMap::new()).rejected.len(), 1);
}

#[tokio::test]
async fn the_same_content_is_imported_once_whatever_its_name() {
    let db = Database::connect("sqlite::memory:").await.unwrap();
    tables::create(&db).await.unwrap();
    tables::create(&db).await.unwrap();
    for (name, new) in [("a.csv", true), ("a.csv", false), ("b.csv", false)] {
        let imported = import(&db, name, bundled::OBSERVATIONS).await.unwrap();
        assert_eq!(matches!(imported, Imported::Now { .. }), new, "{name}");
    }
    assert_eq!(reading::Entity::find().count(&db).await.unwrap(), 1461);
}

#[tokio::test]
async fn of_overlapping_files_only_the_new_days_are_imported() {
    let db = Database::connect("sqlite::memory:").await.unwrap();
    tables::create(&db).await.unwrap();
    let text = std::str::from_utf8(bundled::OBSERVATIONS).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let part = |lines: &[&str]| format!("{}\n{}", line::HEADER, lines.join("\n"));
    for (lines, readings, known) in [(&lines[1..11], 10, 0), (&lines[6..16], 5, 5)] {
        let Imported::Now { file, rejected } = import(&db, "x.csv", part(lines).as_bytes()).await.unwrap() else {
            panic!("another content is another file")
        };
        assert_eq!((file.readings, file.known, rejected.len()), (readings, known, 0));
    }
}

#[tokio::test]
async fn rejected_lines_can_be_corrected_and_imported() {
    let db = Database::connect("sqlite::memory:").await.unwrap();
    tables::create(&db).await.unwrap();
    let Imported::Now { file, .. } = import(&db, "bad.csv", bundled::HANDMADE).await.unwrap() else { panic!() };
    let aside = rejected_file(&db, &file).await.unwrap().unwrap();
    let aside = String::from_utf8_lossy(&aside).replace("warm", "1.5");
    assert!(
        aside.contains("# bad.csv, line 5: temp_min `warm`") || aside.contains("# bad.csv, line 5: temp_min `1.5`")
    );
    let Imported::Now { file: again, .. } = import(&db, "fixed.csv", aside.as_bytes()).await.unwrap() else { panic!() };
    assert_eq!((again.readings, again.rejected), (1, file.rejected - 1));
}
