# When the machine shuts down, agents are stopped while everything they need still exists. After the boot they start afresh.
{ pkgs, ... }:
let
  agent = pkgs.writeShellScript "agent" ''
    end() {
      sleep 3
      {
        tmux -S /run/agentd/tmux.sock list-sessions
        echo ended
      } >>~/story
      exit
    }
    trap end INT
    echo started >>~/story
    while :; do sleep 1; done
  '';
in
{
  name = "agentd-shutdown";

  nodes.machine.services.agentd = {
    enable = true;
    settings.agents = [
      {
        name = "writer";
        harness = "custom";
        command = "${agent}";
        grace_period = "20s";
      }
    ];
  };

  testScript = ''
    machine.wait_until_succeeds("grep started /home/agent/story")
    machine.shutdown()

    machine.start()
    machine.wait_until_succeeds("test $(grep --count started /home/agent/story) = 2")
    machine.succeed("grep '^writer:' /home/agent/story")
    machine.succeed("grep ended /home/agent/story")
  '';
}
