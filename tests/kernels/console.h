/* What a test program has: text output. Freestanding it goes to COM1, hosted to standard output by the C library. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* %d %u %x with ll, 0 and a width; %c %s %%. */
__attribute__((format(printf, 1, 2))) void print(const char *format, ...);

/* The program: the same source is the guest and, compiled for the host, what the guest is compared with. */
void program(void);

#endif
