/** A calculator: parses expressions, makes objects of them, computes, and reports what is wrong. */
public class Calculator {
    abstract static class Expression {
        abstract int value(int x);
    }

    static class Number extends Expression {
        private final int number;

        Number(int number) {
            this.number = number;
        }

        int value(int x) {
            return number;
        }
    }

    static class Variable extends Expression {
        int value(int x) {
            return x;
        }
    }

    static class Binary extends Expression {
        private final char operator;
        private final Expression left;
        private final Expression right;

        Binary(char operator, Expression left, Expression right) {
            this.operator = operator;
            this.left = left;
            this.right = right;
        }

        int value(int x) {
            int a = left.value(x);
            int b = right.value(x);
            switch (operator) {
                case '+':
                    return a + b;
                case '-':
                    return a - b;
                case '*':
                    return a * b;
                case '/':
                    return a / b;
                default:
                    throw new UnsupportedOperationException("operator " + operator);
            }
        }
    }

    private final String text;
    private int place;

    Calculator(String text) {
        this.text = text;
    }

    private char peek() {
        return place < text.length() ? text.charAt(place) : '$';
    }

    Expression sum() {
        Expression found = product();
        while (peek() == '+' || peek() == '-') {
            found = new Binary(text.charAt(place++), found, product());
        }
        return found;
    }

    private Expression product() {
        Expression found = factor();
        while (peek() == '*' || peek() == '/' || peek() == '%') {
            found = new Binary(text.charAt(place++), found, factor());
        }
        return found;
    }

    private Expression factor() {
        char c = peek();
        if (c == '(') {
            place++;
            Expression inner = sum();
            if (peek() != ')') {
                throw new IllegalArgumentException("no ) at " + place);
            }
            place++;
            return inner;
        }
        if (c == 'x') {
            place++;
            return new Variable();
        }
        int start = place;
        while (Character.isDigit(peek())) {
            place++;
        }
        if (start == place) {
            throw new IllegalArgumentException("unexpected " + c + " at " + place);
        }
        return new Number(Integer.parseInt(text.substring(start, place)));
    }

    public static void main(String[] args) {
        String[] texts = {"1+2*3", "(1+2)*3-4/2", "x*x-x", "10/(x-3)", "2*(3+4", "7&8", "5%2", "((((9))))*x"};
        for (String text : texts) {
            try {
                Expression expression = new Calculator(text).sum();
                int total = 0;
                for (int x = 0; x < 30; x++) {
                    total += expression.value(x % 3);
                }
                System.out.println(text + ": " + expression.value(5) + " " + total + " " + expression.value(3));
            } catch (ArithmeticException | IllegalArgumentException | UnsupportedOperationException e) {
                System.out.println(text + ": " + e.getMessage());
            }
        }
    }
}
