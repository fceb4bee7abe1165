# Everything that `.ci/run` uses, and what makes writing Rust and Nix a pleasure.
{
  mkShell,
  agentd,
  cargo,
  clippy,
  curl,
  deadnix,
  nixfmt,
  python3,
  rust-analyzer,
  rustfmt,
  tmux,
  util-linux,
}:
mkShell {
  inputsFrom = [ agentd ];
  packages = [
    cargo
    clippy
    curl
    deadnix
    nixfmt
    python3
    rust-analyzer
    rustfmt
    tmux
    util-linux
  ];
}
