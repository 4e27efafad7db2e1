/* The program as a process of the host: the oracle. Its printf is the C library's. */
#include <stdio.h>

#include "console.h"

void print(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
}

int main(void)
{
    program();
    return 0;
}
