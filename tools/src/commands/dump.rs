use crate::{exit::Failure, output::Output};
#[derive(Debug, clap::Args)]
#[command(after_help = "streamctl dump x")]
pub struct DumpArgs {
    path: std::path::PathBuf,
}
pub async fn run(_args: DumpArgs, _output: Output) -> Result<(), Failure> {
    Ok(())
}
