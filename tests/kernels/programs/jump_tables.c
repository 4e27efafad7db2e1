/* Jump tables: dense and sparse switch statements, an interpreter, computed goto. */
#include "console.h"

__attribute__((noinline)) static int dense(int x)
{
    switch (x) {
    case 0: return 10;
    case 1: return x + 7;
    case 2: return x * x;
    case 3: return -1;
    case 4: return x << 5;
    case 5: return 0x55;
    case 6: /* falls through */
    case 7: return x ^ 0xFF;
    case 8: return 8888;
    case 9: return x - 100;
    default: return 42;
    }
}

__attribute__((noinline)) static const char *sparse(unsigned x)
{
    switch (x) {
    case 1: return "one";
    case 100: return "hundred";
    case 10000: return "ten thousand";
    case 0x80000000: return "two to the thirty-first";
    default: return x > 5000 ? "much" : "little";
    }
}

static int interpret(const unsigned char *code)
{
    static const void *const actions[] = {&&stop, &&push, &&add, &&multiply, &&swap, &&repeat};
    int stack[16], top = -1, rounds = 4;
    const unsigned char *at = code;

    goto *actions[*at++];
push:
    stack[++top] = *at++;
    goto *actions[*at++];
add:
    top--;
    stack[top] += stack[top + 1];
    goto *actions[*at++];
multiply:
    top--;
    stack[top] *= stack[top + 1];
    goto *actions[*at++];
swap: {
    int kept = stack[top];
    stack[top] = stack[top - 1];
    stack[top - 1] = kept;
    goto *actions[*at++];
}
repeat:
    at = --rounds ? code + 2 : at;
    goto *actions[*at++];
stop:
    return stack[top];
}

void program(void)
{
    static const unsigned char code[] = {1, 3, 1, 5, 2, 1, 7, 3, 1, 2, 4, 2, 5, 0};

    for (int x = -2; x < 12; x++)
        print("%d ", dense(x));
    print("\n%s %s %s %s %s %s\n", sparse(1), sparse(100), sparse(10000), sparse(0x80000000), sparse(7), sparse(70000));
    print("%d\n", interpret(code));
}
