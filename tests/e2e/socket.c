/* Unix sockets for shell scripts:
 *
 *     socket connect COUNT PATH PROGRAM ARGUMENT…   becomes the program, with so many connections as descriptors 3 and up
 *     socket hold NAME PROGRAM ARGUMENT…            becomes the program, with a listening socket as descriptor 3; its name
 *                                                   is hexadecimal digits, and abstract if it begins with 00
 *     socket listen PATH PROGRAM ARGUMENT…          runs the program for each client, with the connection as descriptor 3
 *
 * A client retries for ten seconds until the socket listens.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int failed(const char *what)
{
    perror(what);
    return 111;
}

static int become(char **words)
{
    execvp(words[0], words);
    return failed(words[0]);
}

static int connect_all(int count, char **words)
{
    for (int tries = 0; count > 0;) {
        int connection = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connection < 0)
            return failed("socket");
        if (!connect(connection, (struct sockaddr *)&address, sizeof address)) {
            count--;
            continue;
        }
        if (tries++ == 1000)
            return failed(address.sun_path);
        close(connection);
        usleep(10000);
    }
    return become(words);
}

static int listen_for_ever(char **words)
{
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int connection;

    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64))
        return failed(address.sun_path);
    signal(SIGCHLD, SIG_IGN);
    while ((connection = accept(listener, NULL, NULL)) >= 0) {
        if (!fork()) {
            dup2(connection, 3);
            return become(words);
        }
        close(connection);
    }
    return failed(address.sun_path);
}

static int hold(const char *name, char **words)
{
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    size_t length = strlen(name) / 2;
    unsigned byte;

    if (length > sizeof address.sun_path)
        return 64;
    for (size_t at = 0; at < length; at++) {
        if (sscanf(name + 2 * at, "%2x", &byte) != 1)
            return 64;
        address.sun_path[at] = byte;
    }
    if (bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t) + length) || listen(listener, 64))
        return failed(name);
    dup2(listener, 3);
    return become(words);
}

int main(int count, char **words)
{
    if (count > 3 && !strcmp(words[1], "hold"))
        return hold(words[2], words + 3);

    int connects = count > 4 && !strcmp(words[1], "connect");
    char **path = words + (connects ? 3 : 2);

    if (count < 4 || strlen(*path) >= sizeof address.sun_path)
        return 64;
    strcpy(address.sun_path, *path);
    return connects ? connect_all(atoi(words[2]), path + 1) : listen_for_ever(path + 1);
}
