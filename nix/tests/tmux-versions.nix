# An agent started under an older tmux lives on under a newer agentd and tmux client.
{ lib, pkgs, ... }:
let
  older = pkgs.tmux.overrideAttrs {
    version = "3.5a";
    src = pkgs.fetchFromGitHub {
      owner = "tmux";
      repo = "tmux";
      tag = "3.5a";
      hash = "sha256-Z9XHpyh4Y6iBI4+SfFBCGA8huFJpRFZy9nEB7+WQVJE=";
    };
  };
in
{
  name = "agentd-tmux-versions";

  nodes.machine = {
    services.agentd = {
      enable = true;
      tmuxPackage = lib.mkDefault older;
      settings.agents = [
        {
          name = "sleeper";
          harness = "custom";
          command = [
            "sleep"
            "infinity"
          ];
        }
      ];
    };
    specialisation.next.configuration.services.agentd.tmuxPackage = pkgs.tmux;
  };

  testScript = ''
    def pid():
        return machine.succeed("pgrep --uid agent --full --exact 'sleep infinity'").strip()

    machine.wait_until_succeeds("agentd status sleeper")
    before = pid()
    machine.succeed("tmux -V | grep 3.5a")

    machine.succeed("/run/current-system/specialisation/next/bin/switch-to-configuration test")
    machine.fail("tmux -V | grep 3.5a")
    machine.wait_until_succeeds("agentd status sleeper")
    assert pid() == before, "the agent was restarted"

    # The old server ends with its last agent, and the next server has the new version.
    machine.succeed("systemctl stop agentd.service && systemctl start agentd.service")
    machine.wait_until_succeeds("agentd status sleeper")
    machine.succeed("runuser -u agent -- tmux -S /run/agentd/tmux.sock display-message -p '#{version}' | grep --invert-match 3.5a")
  '';
}
