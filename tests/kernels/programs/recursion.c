/* Recursion, mutual and deep, function pointers, many arguments, arrays of variable length. */
#include "console.h"

static unsigned fibonacci(unsigned n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static unsigned ackermann(unsigned m, unsigned n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

__attribute__((noinline)) static int is_odd(unsigned n);

__attribute__((noinline)) static int is_even(unsigned n)
{
    return n == 0 ? 1 : is_odd(n - 1);
}

__attribute__((noinline)) static int is_odd(unsigned n)
{
    return n == 0 ? 0 : is_even(n - 1);
}

static unsigned moves;

static void hanoi(int discs, char from, char to, char over)
{
    if (!discs)
        return;
    hanoi(discs - 1, from, over, to);
    if (++moves % 5 == 0)
        print("%c%c ", from, to);
    hanoi(discs - 1, over, to, from);
}

__attribute__((noinline)) static int many(int a, int b, int c, int d, int e, int f, long long g, char h)
{
    return a - b * 2 + c * 3 - d * 4 + e * 5 - f * 6 + (int)(g >> 32) + h;
}

__attribute__((noinline)) static unsigned variable_length(unsigned n)
{
    unsigned row[n + 1], result = 0;

    for (unsigned i = 0; i <= n; i++) {
        row[i] = 1;
        for (unsigned j = i; j > 1; j--)
            row[j - 1] += row[j - 2];
    }
    for (unsigned i = 0; i <= n; i++)
        result = result * 7 + row[i];
    return result;
}

static int twice(int x) { return 2 * x; }
static int square(int x) { return x * x; }
static int negate(int x) { return -x; }

void program(void)
{
    int (*volatile functions[])(int) = {twice, square, negate};
    int value = 3;

    print("%u %u\n", fibonacci(13), ackermann(2, 5));
    print("%d %d\n", is_even(100), is_odd(101));
    hanoi(6, 'a', 'c', 'b');
    print("\n%u moves\n", moves);
    print("%d\n", many(1, 2, 3, 4, 5, 6, 0x700000000LL, 8));
    for (unsigned i = 0; i < 9; i++)
        value = functions[i % 3](value) % 1000 + (int)i;
    print("%d %u\n", value, variable_length(12));
}
