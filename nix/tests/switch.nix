# A switch to another agentd, and to another declaration, leaves unaffected agents alone.
{ lib, pkgs, ... }:
let
  sleeper = name: seconds: {
    inherit name;
    harness = "custom";
    command = [
      "sleep"
      seconds
    ];
  };
in
{
  name = "agentd-switch";

  nodes.machine = {
    services.agentd = {
      enable = true;
      settings.agents = lib.mkDefault [
        (sleeper "kept" "10001")
        (sleeper "changed" "10002")
      ];
    };
    specialisation.next.configuration.services.agentd = {
      # The same program at another path: to systemd and to the switch it is another program.
      package = pkgs.symlinkJoin {
        name = "agentd-next";
        paths = [ (pkgs.callPackage ../package.nix { }) ];
      };
      settings.agents = [
        (sleeper "kept" "10001")
        (sleeper "changed" "10003")
      ];
    };
  };

  testScript = ''
    def pid(command):
        return machine.succeed(f"pgrep --uid agent --full --exact '{command}'").strip()

    def daemon():
        return machine.succeed("systemctl show --property MainPID --value agentd.service").strip()

    machine.wait_for_unit("agentd.service")
    machine.wait_until_succeeds("agentd status kept && agentd status changed")
    kept, before = pid("sleep 10001"), daemon()

    machine.succeed("/run/current-system/specialisation/next/bin/switch-to-configuration test")
    machine.wait_until_succeeds("pgrep --uid agent --full --exact 'sleep 10003'")
    machine.fail("pgrep --uid agent --full --exact 'sleep 10002'")
    assert daemon() != before, "the daemon was not restarted"
    assert pid("sleep 10001") == kept, "the agent was restarted"
    machine.succeed("agentd status kept")
  '';
}
