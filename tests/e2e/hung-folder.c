/* A file system that never answers, as a user's own program can serve one (FUSE):
 *
 *     hung-folder FOLDER UID   mounts it over the folder, as that user with `allow_other` would, and reads requests
 */
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static char buffer[1 << 20];

int main(int count, char **words)
{
    struct {
        struct fuse_out_header head;
        struct fuse_init_out init;
    } answer = {0};
    struct fuse_in_header *asked = (struct fuse_in_header *)buffer;
    char options[200];
    int device = open("/dev/fuse", O_RDWR | O_CLOEXEC);

    if (count != 3 || device < 0)
        return 77;
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%s,group_id=0,allow_other", device, words[2]);
    if (mount("hung", words[1], "fuse.hung", MS_NOSUID | MS_NODEV, options)) {
        perror("mount");
        return 77;
    }
    while (read(device, buffer, sizeof buffer) > 0) {
        if (asked->opcode != FUSE_INIT)
            continue;
        answer.head.len = sizeof answer;
        answer.head.unique = asked->unique;
        answer.init.major = FUSE_KERNEL_VERSION;
        answer.init.minor = ((struct fuse_init_in *)(asked + 1))->minor;
        answer.init.max_write = 4096;
        if (write(device, &answer, sizeof answer) < 0)
            return 1;
    }
    return 0;
}
