# Who may do what: the administrators use the API, the agents and strangers do not.
{
  name = "agentd-sockets-and-users";

  nodes.machine = {
    services.agentd.enable = true;
    users.users = {
      op = {
        isNormalUser = true;
        extraGroups = [ "admin" ];
      };
      stranger.isNormalUser = true;
    };
  };

  testScript = ''
    machine.wait_for_unit("agentd.service")

    def rights(path):
        return machine.succeed(f"stat --format '%A %U %G' {path}").strip()

    assert rights("/run/stereos") == "drwxr-x--- root admin", rights("/run/stereos")
    assert rights("/run/stereos/agentd.sock") == "srw-rw---- root admin", rights("/run/stereos/agentd.sock")
    assert rights("/run/stereos/secrets") == "drwx------ root root", rights("/run/stereos/secrets")
    assert rights("/run/agentd") == "drwxr-s--- agent admin", rights("/run/agentd")
    machine.wait_until_succeeds("test $(stat --format %a /run/agentd/tmux.sock) = 770")
    assert rights("/run/agentd/tmux.sock") == "srwxrwx--- agent admin", rights("/run/agentd/tmux.sock")
    assert rights("/var/lib/agentd") == "drwx------ root root", rights("/var/lib/agentd")

    ask = "curl --fail --silent --unix-socket /run/stereos/agentd.sock http://agentd/v1/agents"
    machine.succeed(f"runuser -u op -- {ask}")
    machine.fail(f"runuser -u agent -- {ask}")
    machine.fail(f"runuser -u stranger -- {ask}")
    machine.fail("runuser -u stranger -- tmux -S /run/agentd/tmux.sock list-sessions")
  '';
}
