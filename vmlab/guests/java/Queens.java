/** The queens on a chess board, by backtracking; and Conway's game of life. */
public class Queens {
    private final int size;
    private final boolean[] columns;
    private final boolean[] up;
    private final boolean[] down;
    private int solutions;

    Queens(int size) {
        this.size = size;
        columns = new boolean[size];
        up = new boolean[2 * size];
        down = new boolean[2 * size];
    }

    private void place(int row) {
        if (row == size) {
            solutions++;
            return;
        }
        for (int column = 0; column < size; column++) {
            if (columns[column] || up[row + column] || down[row - column + size]) {
                continue;
            }
            columns[column] = up[row + column] = down[row - column + size] = true;
            place(row + 1);
            columns[column] = up[row + column] = down[row - column + size] = false;
        }
    }

    static boolean[][] generation(boolean[][] board) {
        int height = board.length;
        int width = board[0].length;
        boolean[][] next = new boolean[height][width];
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                int neighbours = 0;
                for (int dy = -1; dy <= 1; dy++) {
                    for (int dx = -1; dx <= 1; dx++) {
                        if ((dy != 0 || dx != 0) && board[(y + dy + height) % height][(x + dx + width) % width]) {
                            neighbours++;
                        }
                    }
                }
                next[y][x] = neighbours == 3 || neighbours == 2 && board[y][x];
            }
        }
        return next;
    }

    public static void main(String[] args) {
        for (int size = 4; size <= 6; size++) {
            Queens queens = new Queens(size);
            queens.place(0);
            System.out.println(size + " queens: " + queens.solutions);
        }
        boolean[][] board = new boolean[8][8];
        board[1][2] = board[2][3] = board[3][1] = board[3][2] = board[3][3] = true;
        for (int i = 0; i < 8; i++) {
            board = generation(board);
        }
        for (boolean[] row : board) {
            StringBuilder line = new StringBuilder();
            for (boolean cell : row) {
                line.append(cell ? '#' : '.');
            }
            System.out.println(line);
        }
    }
}
