/* Formatted output: widths, padding, signs, 64 bits, and the multiboot loader's start itself. */
#include "console.h"

void program(void)
{
    static const int values[] = {0, 1, -1, 9, 10, -10, 123456789, -2147483647 - 1, 2147483647};

    for (unsigned i = 0; i < sizeof values / sizeof values[0]; i++) {
        print("[%d] [%u] [%x] [%8d] [%08d] [%12u] [%08x]\n", values[i], (unsigned)values[i], (unsigned)values[i], values[i],
              values[i], (unsigned)values[i], (unsigned)values[i]);
        print("[%lld] [%llx]\n", values[i] * 10000000000ll, values[i] * 10000000000ull);
    }
    print("%s|%c|%%|%s\n", "text", 'c', "");
}
