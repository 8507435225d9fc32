//! `streamctl topic list`.

use serde_json::json;

use crate::connect::connect;
use crate::exit::Failure;
use crate::output::Output;
use crate::settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  streamctl topic list
  streamctl topic list -o jsonl | jq -r .name")]
pub struct ListArgs {
    /// Show the broker's own topics as well.
    #[arg(long)]
    internal: bool,
}

pub async fn run(args: ListArgs, settings: &Settings, output: Output) -> Result<(), Failure> {
    let mut topics = connect(settings).await?.admin().list_topics().await?;
    topics.retain(|topic| args.internal || !topic.internal);
    let replicas = |topic: &headwater_client::Topic| topic.partitions.first().map_or(0, |p| p.replicas.len());
    let rows: Vec<_> = topics
        .iter()
        .map(|topic| {
            json!({
                "name": topic.name,
                "topic_id": topic.topic_id,
                "partitions": topic.partitions.len(),
                "replicas": replicas(topic),
                "internal": topic.internal,
            })
        })
        .collect();
    output.report(&rows, |page| {
        if topics.is_empty() {
            page.line("no topics: make one with `streamctl topic create NAME --partitions N`");
            return;
        }
        let rows = topics.iter().map(|t| {
            vec![t.name.clone(), t.partitions.len().to_string(), replicas(t).to_string(), t.topic_id.clone()]
        });
        page.table(&["TOPIC", ">PARTITIONS", ">REPLICAS", "ID"], rows);
    })
}
