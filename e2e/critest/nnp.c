/* Of root and setuid: tells whether that gave it root's rights (critest's no_new_privs specs read the line). */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %d\n", (int)geteuid());
  return 0;
}
