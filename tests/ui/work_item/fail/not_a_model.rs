use service_core::database::WorkItem;

#[derive(WorkItem)]
#[work_item(status = "status")]
pub struct Job {
    pub id: i64,
    pub status: String,
}

#[derive(WorkItem)]
pub enum Status {
    Pending,
}

fn main() {}
