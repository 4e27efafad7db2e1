/** Matrices of ints: products, powers, a determinant modulo a prime, arrays of arrays. */
public class Matrix {
    static int[][] multiply(int[][] a, int[][] b) {
        int[][] product = new int[a.length][b[0].length];
        for (int i = 0; i < a.length; i++) {
            for (int j = 0; j < b[0].length; j++) {
                int sum = 0;
                for (int k = 0; k < b.length; k++) {
                    sum += a[i][k] * b[k][j];
                }
                product[i][j] = sum;
            }
        }
        return product;
    }

    static int power(int base, int exponent, int prime) {
        int result = 1;
        for (; exponent > 0; exponent >>= 1, base = base * base % prime) {
            if ((exponent & 1) == 1) {
                result = result * base % prime;
            }
        }
        return result;
    }

    static int determinant(int[][] matrix, int prime) {
        int n = matrix.length;
        int[][] a = new int[n][];
        for (int i = 0; i < n; i++) {
            a[i] = matrix[i].clone();
        }
        int found = 1;
        for (int column = 0; column < n; column++) {
            int pivot = column;
            while (pivot < n && a[pivot][column] % prime == 0) {
                pivot++;
            }
            if (pivot == n) {
                return 0;
            }
            if (pivot != column) {
                int[] row = a[pivot];
                a[pivot] = a[column];
                a[column] = row;
                found = prime - found;
            }
            found = found * a[column][column] % prime;
            int inverse = power(a[column][column], prime - 2, prime);
            for (int row = column + 1; row < n; row++) {
                int factor = a[row][column] * inverse % prime;
                for (int k = column; k < n; k++) {
                    a[row][k] = ((a[row][k] - factor * a[column][k]) % prime + prime) % prime;
                }
            }
        }
        return found;
    }

    public static void main(String[] args) {
        int[][] fibonacci = {{1, 1}, {1, 0}};
        int[][] result = {{1, 0}, {0, 1}};
        for (int i = 0; i < 40; i++) {
            result = multiply(result, fibonacci);
        }
        System.out.println("fibonacci(40) = " + result[0][1]);
        int[][] matrix = new int[8][8];
        for (int i = 0; i < 8; i++) {
            for (int j = 0; j < 8; j++) {
                matrix[i][j] = (i * 31 + j * 17 + i * j * j) % 101;
            }
        }
        System.out.println("determinant modulo 101: " + determinant(matrix, 101));
        int[][] square = multiply(matrix, matrix);
        System.out.println("trace " + (square[0][0] + square[3][3] + square[7][7]));
        long[][][] cube = new long[3][4][5];
        cube[2][3][4] = 1L << 40;
        cube[0][0][0] = -1;
        System.out.println(cube.length + " " + cube[1].length + " " + cube[1][2].length + " " + (cube[2][3][4] + cube[0][0][0]));
        char[][] picture = new char[3][];
        for (int i = 0; i < picture.length; i++) {
            picture[i] = new char[i + 1];
            for (int j = 0; j <= i; j++) {
                picture[i][j] = (char) ('a' + i + j);
            }
            System.out.println(picture[i]);
        }
    }
}
